"""Every format gives the same network, whatever its container, names, order and scale."""

import hashlib

import h5py
import numpy as np
import pytest
import weight_files as make
from tracing import memory_of
from weight_files import FORMATS, oxford_net, random_net, torchvision_net

from nst_manual import layers
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.vgg import LAYERS, Network, steps_to, walk_up
from nst_manual.weights import INSTALLED_NAME, Weights, find_weights, load_weights, registry
from nst_manual.weights.fingerprint import (
    OXFORD_LICENCE,
    OXFORD_MEAN_RGB,
    TORCHVISION_LICENCE,
    UNIT_DEVIATION_RGB,
    UNIT_MEAN_RGB,
)
from nst_manual.weights.formats.hdf5 import write_hdf5
from nst_manual.weights.registry import Known

FEW = LAYERS[:3]  # conv1_1, conv1_2, conv2_1


@pytest.fixture(scope="module")
def net():
    return oxford_net(FEW)


def features(weights, image, deepest="conv2_1"):
    """The deepest features of the project's own walk."""
    network = Network.build(open_engine("reference", "float64"), weights.filters, weights.mean, steps_to(deepest))
    for _, found, _ in walk_up(network, image):
        last = found
    return last


def own_features(net, x):
    """What the source's own program would compute from its own input, by the plain layers."""
    for layer, (kernel, bias) in net.items():
        x = np.maximum(layers.conv(x, kernel.astype(np.float64), bias.astype(np.float64)), 0)
        if layer == "conv1_2":
            x = layers.average_pool(x)
    return x


def bgr_minus_mean(image):
    return (image - OXFORD_MEAN_RGB)[:, :, ::-1]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_filters(name, net, tmp_path):
    path = tmp_path / "weights.of-no-known-ending"
    FORMATS[name](path, net)
    weights = load_weights(path, FEW)
    assert list(weights.filters) == list(FEW)
    np.testing.assert_allclose(weights.mean, OXFORD_MEAN_RGB, rtol=1e-7)
    assert weights.family == "oxford"
    for layer, (kernel, bias) in net.items():
        expected = kernel[:, :, ::-1] if layer == "conv1_1" else kernel
        np.testing.assert_array_equal(weights.filters[layer][0], expected)
        np.testing.assert_array_equal(weights.filters[layer][1], bias)
        assert weights.filters[layer][0].dtype == np.float32


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_features_of_the_sources_own_program(name, net, tmp_path, rng):
    FORMATS[name](tmp_path / "file", net)
    image = rng.uniform(0, 255, (9, 7, 3))
    ours = features(load_weights(tmp_path / "file", FEW), image)
    np.testing.assert_allclose(ours, own_features(net, bgr_minus_mean(image)), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("container", ["torch_zip_state", "legacy_state", "safetensors_state"])
def test_pytorch_files_may_hold_other_floating_point_numbers(kind, container, net, tmp_path):
    state = make.features(net)
    if kind == "bfloat16":  # its bits are the upper half of a float32's
        state = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in state.items()}
    else:
        state = {name: array.astype(kind) for name, array in state.items()}
    getattr(make, container)(tmp_path / "file", state)
    kernel, _ = load_weights(tmp_path / "file", FEW).filters["conv1_2"]
    tolerance = {"float64": 0, "float16": 1e-3, "bfloat16": 1e-2}[kind]
    np.testing.assert_allclose(kernel, net["conv1_2"][0], rtol=tolerance, atol=1e-6 if tolerance else 0)


@pytest.mark.parametrize("prefix", ["module.features.", "net.", "module.vgg.features.", "", "state_dict.features."])
def test_prefixes_of_names_do_not_matter(prefix, net, tmp_path):
    make.safetensors_state(tmp_path / "file", make.features(net, prefix))
    np.testing.assert_array_equal(load_weights(tmp_path / "file", FEW).filters["conv2_1"][0], net["conv2_1"][0])


def test_a_loss_networks_second_copy_under_another_name_is_not_mixed_in(net, tmp_path):
    other = random_net(FEW[:2], seed=5)
    state = make.features(net, "vgg.") | make.features(other, "decoder.")
    make.safetensors_state(tmp_path / "file", state)
    np.testing.assert_array_equal(load_weights(tmp_path / "file", FEW).filters["conv1_2"][0], net["conv1_2"][0])


def test_parameters_read_like_tensors(net, tmp_path):
    state = make.features(net)
    make.torch_zip_state(tmp_path / "file", state, make.state_pickle(state, parameter=True))
    np.testing.assert_array_equal(load_weights(tmp_path / "file", FEW).filters["conv1_2"][0], net["conv1_2"][0])


@pytest.mark.parametrize("folder", ["layers", "_layer_checkpoint_dependencies"])
def test_keras_3_counts_its_layers_by_number_not_by_letter(folder, tmp_path):
    net = oxford_net(LAYERS[:12])  # conv2d_10 and conv2d_11 come after conv2d_9, not after conv2d_1
    make.keras3(tmp_path / "file", net, folder)
    weights = load_weights(tmp_path / "file", LAYERS[:12])
    for layer in ("conv1_2", "conv4_3", "conv4_4"):
        np.testing.assert_array_equal(weights.filters[layer][0], net[layer][0])


def test_our_own_file_comes_back_as_it_was_written(net, tmp_path):
    make.torch_adain(tmp_path / "in", net)
    weights = load_weights(tmp_path / "in", FEW)
    write_hdf5(tmp_path / "out.h5", weights)
    again = load_weights(tmp_path / "out.h5", FEW)
    assert (again.mean, again.family, again.source, again.licence) == (
        weights.mean, "oxford", "PyTorch (legacy), in", OXFORD_LICENCE,
    )  # fmt: skip
    for layer in FEW:
        for one, other in zip(weights.filters[layer], again.filters[layer], strict=True):
            np.testing.assert_array_equal(one, other)


def test_float16_halves_our_file(net, tmp_path):
    make.npz(tmp_path / "in", net)
    weights = load_weights(tmp_path / "in", FEW)
    write_hdf5(tmp_path / "whole.h5", weights)
    write_hdf5(tmp_path / "half.h5", weights, half=True)
    assert (tmp_path / "half.h5").stat().st_size < 0.55 * (tmp_path / "whole.h5").stat().st_size
    half = load_weights(tmp_path / "half.h5", FEW).filters["conv2_1"][0]
    np.testing.assert_allclose(half, net["conv2_1"][0], rtol=1e-3, atol=1e-6)


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    weights = Weights({"conv1_1": (np.full((3, 3, 3, 64), 1e6), np.zeros(64))}, (0, 0, 0), "", "")
    with pytest.raises(NSTError, match="too large for float16"):
        write_hdf5(tmp_path / "half.h5", weights, half=True)
    assert not list(tmp_path.iterdir())


# Whose numbers: family, channel order, orientation and scale


@pytest.mark.parametrize("name", ["safetensors", "npz", "keras2", "torch_legacy", "caffe"])
@pytest.mark.parametrize("change", [make.rgb, make.transposed, make.rescaled])
def test_the_order_follows_from_the_numbers_not_from_the_container(name, change, net, tmp_path, rng):
    changed = change(net)
    FORMATS[name](tmp_path / "file", changed)
    weights = load_weights(tmp_path / "file", FEW)
    assert weights.family == "oxford"
    source = make.rescaled(net) if change is make.rescaled else net
    image = rng.uniform(0, 255, (8, 8, 3))
    expected = own_features(source, bgr_minus_mean(image))
    np.testing.assert_allclose(features(weights, image), expected, rtol=1e-5, atol=1e-4)


def test_oxfords_numbers_for_images_of_0_to_1_are_scaled_back(net, tmp_path):
    make.npz(tmp_path / "file", make.with_conv1(net, lambda kernel, bias: (kernel * 255, bias)))
    kernel, _ = load_weights(tmp_path / "file", FEW).filters["conv1_1"]
    np.testing.assert_allclose(kernel, net["conv1_1"][0][:, :, ::-1], rtol=1e-6)


@pytest.mark.parametrize("source", [torchvision_net(FEW), make.standardised(oxford_net(FEW))], ids=["tv", "oxford"])
def test_networks_of_standardised_images_get_them(source, tmp_path, rng):
    make.safetensors(tmp_path / "file", source)
    weights = load_weights(tmp_path / "file", FEW)
    image = rng.uniform(0, 255, (8, 8, 3))
    expected = own_features(source, (image / 255 - UNIT_MEAN_RGB) / UNIT_DEVIATION_RGB)
    np.testing.assert_allclose(features(weights, image), expected, rtol=1e-4, atol=1e-5)


def test_torchvisions_family_is_known_by_its_numbers(tmp_path):
    make.npz(tmp_path / "file", torchvision_net(FEW))
    weights = load_weights(tmp_path / "file", FEW)
    assert (weights.family, weights.licence) == ("torchvision", TORCHVISION_LICENCE)
    np.testing.assert_allclose(weights.mean, 255 * np.array(UNIT_MEAN_RGB))
    write_hdf5(tmp_path / "ours", weights)
    assert load_weights(tmp_path / "ours", FEW).family == "torchvision"


def test_rounding_to_8_bits_and_float16_do_not_hide_the_family(net, tmp_path):
    def rounded(kernel, bias):
        step = (kernel.max() - kernel.min()) / 255
        return (np.rint(kernel / step) * step).astype(np.float16), bias.astype(np.float16)

    make.npz(tmp_path / "file", make.with_conv1(net, rounded))
    assert load_weights(tmp_path / "file", FEW).family == "oxford"


def test_an_unknown_network_asks_for_its_family_and_takes_it(tmp_path, rng):
    source = random_net(FEW)
    make.torch_zip(tmp_path / "file", source)
    with pytest.raises(NSTError, match=r"--family torchvision .* or --family oxford"):
        load_weights(tmp_path / "file", FEW)
    image = rng.uniform(0, 255, (8, 8, 3))
    as_oxford = features(load_weights(tmp_path / "file", FEW, "oxford"), image)
    np.testing.assert_allclose(as_oxford, own_features(source, bgr_minus_mean(image)), rtol=1e-5, atol=1e-4)
    as_torch = features(load_weights(tmp_path / "file", FEW, "torchvision"), image)
    expected = own_features(source, (image / 255 - UNIT_MEAN_RGB) / UNIT_DEVIATION_RGB)
    np.testing.assert_allclose(as_torch, expected, rtol=1e-4, atol=1e-5)


def test_a_published_file_is_known_by_its_checksum_even_if_its_numbers_are_not(tmp_path, monkeypatch):
    make.torch_zip(tmp_path / "file", random_net(FEW))
    data = (tmp_path / "file").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    known = Known("some", "a test", "torchvision", "file", size=len(data), sha256=sha256)
    monkeypatch.setattr(registry, "KNOWN_FILES", (known,))
    assert load_weights(tmp_path / "file", FEW).family == "torchvision"


def test_a_family_that_contradicts_the_numbers_is_refused(net, tmp_path):
    make.npz(tmp_path / "file", net)
    with pytest.raises(NSTError, match="leave --family out"):
        load_weights(tmp_path / "file", FEW, "torchvision")
    with pytest.raises(NSTError, match="--family must be one of oxford, torchvision"):
        load_weights(tmp_path / "file", FEW, "caffe")


def test_attributes_that_contradict_the_numbers_are_refused(net, tmp_path):
    make.ours(tmp_path / "file", net)
    with h5py.File(tmp_path / "file", "r+") as file:
        file.attrs["channel_order"] = "RGB"
    with pytest.raises(NSTError, match="its attributes say RGB, but its numbers are BGR"):
        load_weights(tmp_path / "file", FEW)


def test_kernels_turned_by_180_degrees_are_refused(net, tmp_path):
    turned = {layer: (kernel[::-1, ::-1].copy(), bias) for layer, (kernel, bias) in net.items()}
    make.keras1(tmp_path / "file", turned)
    with pytest.raises(NSTError, match="Theano"):
        load_weights(tmp_path / "file", FEW)


# What is read


def test_the_classifier_is_never_read_into_memory(net, tmp_path):
    large = {"fc6": np.ones((2048, 2048), np.float32)}  # 16 MB
    state = make.features(net)
    make.torch_zip_state(tmp_path / "torch_zip", state | {"classifier.0.weight": large["fc6"]})
    make.legacy_state(tmp_path / "legacy", state | {"classifier.0.weight": large["fc6"]})
    make.safetensors_state(tmp_path / "safetensors", {"classifier.0.weight": large["fc6"]} | state)
    np.savez(tmp_path / "npz.npz", **large, **state)
    make.keras2(tmp_path / "keras", net)
    with h5py.File(tmp_path / "keras", "r+") as file:
        file["fc1/fc1/kernel:0"] = large["fc6"]
    make.caffe(tmp_path / "caffe", net, extra=large["fc6"])
    make.matconvnet(tmp_path / "mat", net, extra=large["fc6"])
    for path in tmp_path.iterdir():
        assert memory_of(lambda path=path: load_weights(path, FEW)) < 6 << 20, path


def test_a_layer_that_is_not_there_is_named(net, tmp_path):
    make.torch_zip(tmp_path / "file", net)
    with pytest.raises(NSTError, match=r"no layer conv2_2 in it \(it has conv1_1, conv1_2, conv2_1\)"):
        load_weights(tmp_path / "file", LAYERS[:4])


def test_vgg_16s_weights_are_refused_by_their_shapes(tmp_path):
    net = oxford_net(LAYERS[:8])
    names = [f"features.{place}" for place in (0, 2, 5, 7, 10, 12, 14, 17)]  # three convolutions in the third block
    make.safetensors_state(tmp_path / "file", make.state_dict(net, names))
    with pytest.raises(NSTError, match="no layer conv3_4"):
        load_weights(tmp_path / "file", LAYERS[:8])


# Where installed weights lie


def test_installed_weights_are_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path))
    assert find_weights("auto") is None
    assert find_weights("calibrated") is None
    with pytest.raises(NSTError, match="weights get"):
        find_weights("vgg19")
    (tmp_path / INSTALLED_NAME).touch()
    assert find_weights("auto") == find_weights("vgg19") == tmp_path / INSTALLED_NAME


def test_other_installed_networks_are_found_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path))
    with pytest.raises(NSTError, match="weights get torchvision"):
        find_weights("torchvision")
    (tmp_path / "vgg19-torchvision.h5").touch()
    assert find_weights("torchvision") == find_weights("timm") == tmp_path / "vgg19-torchvision.h5"
    assert find_weights("auto") is None


def test_a_named_file_must_be_one(tmp_path):
    with pytest.raises(NSTError, match="does not exist"):
        find_weights(str(tmp_path / "none.h5"))
    with pytest.raises(NSTError, match="is a folder"):
        find_weights(str(tmp_path))


@pytest.mark.parametrize("groups", [1, 7, 9, 30, 200])
def test_groups_in_hdf5s_newer_format_are_read_whatever_their_size(groups, net, tmp_path):
    make.keras1(tmp_path / "file", net, libver="latest")
    with h5py.File(tmp_path / "file", "r+", libver="latest") as file:
        for number in range(groups):
            file.create_group(f"block9_pool_with_a_rather_long_name_{number}")
    np.testing.assert_array_equal(load_weights(tmp_path / "file", FEW).filters["conv2_1"][0], net["conv2_1"][0])
