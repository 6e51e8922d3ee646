"""Real files: saved by PyTorch itself, and VGG-19's true numbers where they are available."""

import subprocess
import sys

import numpy as np
import pytest
import weight_files as make
from tracing import memory_of
from weight_files import oxford_net

from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.objective import Objective, Style, content_terms, style_terms
from nst_manual.pictures.reading import load_image
from nst_manual.presets import PRESETS, Formula
from nst_manual.vgg import LAYERS, Network, convolutions, steps_to, walk_up
from nst_manual.weights import commands, load_weights
from nst_manual.weights.fingerprint import OXFORD_MEAN_RGB

FEW = LAYERS[:4]


# Live against PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def torch_vgg(torch, net):
    """torchvision's `features` up to the last layer of the net."""
    layers = []
    for layer, (kernel, bias) in net.items():
        conv = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        conv.weight.data = torch.from_numpy(make.oihw(kernel))
        conv.bias.data = torch.from_numpy(bias.copy())
        layers += [conv, torch.nn.ReLU()]
        if layer in ("conv1_2", "conv2_2"):
            layers.append(torch.nn.AvgPool2d(2))
    model = torch.nn.Module()
    model.features = torch.nn.Sequential(*layers)
    model.classifier = torch.nn.Sequential(torch.nn.Linear(9, 4))
    return model


def variants(torch, model):
    state = model.state_dict()  # with _metadata, which BUILD sets
    yield "state", state
    yield "double", {name: tensor.double() for name, tensor in state.items()}
    yield "checkpoint", {"state_dict": state, "epoch": 3, "best": 0.5}
    yield "parallel", torch.nn.DataParallel(model).state_dict()
    yield "parameters", dict(model.named_parameters())
    yield (
        "channels last",
        {
            name: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
            for name, tensor in state.items()
        },
    )
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])  # one storage shared by all tensors
    views, start = {}, 0
    for name, tensor in state.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    yield "views", views


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_pytorch_saves_gives_pytorchs_own_features(zipped, torch, tmp_path, rng):
    net = make.standardised(oxford_net(FEW))
    model = torch_vgg(torch, net)
    image = rng.uniform(0, 255, (20, 24, 3))
    x = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        inside = torch.from_numpy(x.transpose(2, 0, 1).astype(np.float32))[None]
        theirs = model.features[:-1](inside)[0].numpy().transpose(1, 2, 0)
    for name, value in variants(torch, model):
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=zipped)
        weights = load_weights(tmp_path / name, FEW)
        network = Network.build(open_engine("reference"), weights.filters, weights.mean, steps_to(FEW[-1]))
        *_, (_, ours, _) = walk_up(network, image)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.max(), err_msg=name)


def test_float16_and_bfloat16_tensors_of_pytorch_are_read(torch, tmp_path):
    net = oxford_net(FEW)
    state = torch_vgg(torch, net).state_dict()
    for kind in (torch.float16, torch.bfloat16):
        for zipped in (True, False):
            path = tmp_path / f"{kind}-{zipped}"
            torch.save({name: t.to(kind) for name, t in state.items()}, path, _use_new_zipfile_serialization=zipped)
            expected = state["features.2.weight"].to(kind).float().numpy().transpose(2, 3, 1, 0)
            np.testing.assert_array_equal(load_weights(path, FEW).filters["conv1_2"][0], expected)


def test_a_whole_pytorch_model_is_refused_and_nothing_of_it_runs(torch, tmp_path):
    for zipped in (True, False):
        torch.save(torch_vgg(torch, oxford_net(FEW[:1])), tmp_path / "model", _use_new_zipfile_serialization=zipped)
        with pytest.raises(NSTError, match=r"torch\.nn\.modules"):
            load_weights(tmp_path / "model", FEW[:1])


# VGG-19's true numbers


@pytest.fixture(scope="module")
def real_files(tmp_path_factory, real_data):
    """VGG-19 in every format that the script can write on this machine."""
    script = real_data / "make_vgg19.py"
    if not script.is_file():
        pytest.skip(f"no make_vgg19.py in {real_data}")
    folder = tmp_path_factory.mktemp("real")
    try:
        import torch

        formats = ("keras", "npz", "torch", "legacy") if torch else ()
    except ImportError:
        formats = ("keras", "npz")
    for name in formats:
        subprocess.run([sys.executable, str(script), name, str(folder / name)], check=True)
    return {name: (folder / name).with_suffix(".npz" if name == "npz" else "") for name in formats}


def gradient(weights, content, style, image):
    deepest = "conv5_1"
    network = Network.build(open_engine("reference", "float32"), weights.filters, weights.mean, steps_to(deepest))
    formula = Formula(PRESETS["gatys"])
    terms = content_terms(network, content, {"conv4_2": 1.0}, formula)
    styles = dict.fromkeys(("conv1_1", "conv2_1", "conv3_1", "conv4_1", deepest), 1.0)
    terms += style_terms(network, [Style(style)], styles, formula, image.shape[:2])
    return Objective(network, terms)(image)


def test_vgg_19_gives_the_same_gradient_from_every_format(real_files, real_data, tmp_path):
    content = load_image(real_data / "images" / "content_chelsea.png", 64)
    style = load_image(real_data / "images" / "style_starry_night.jpg", 64)
    layers = convolutions(steps_to("conv5_1"))
    first = next(iter(real_files.values()))
    commands.convert(first, tmp_path / "ours.h5")
    expected = None
    for path in (*real_files.values(), tmp_path / "ours.h5"):
        found = gradient(load_weights(path, layers), content, style, content)
        expected = expected or found
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        size = np.abs(expected.gradient).max()
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=1e-5 * size)


def test_vgg_19_is_recognised_bit_for_bit_and_read_without_its_weight_in_memory(real_files):
    path = real_files["keras"]
    report = commands.inspect(path)
    assert (report["family"], report["complete"], report["rescaled"]) == ("oxford", True, False)
    assert [entry["layer"] for entry in report["layers"] if entry["original"]] == list(LAYERS[:8])
    assert memory_of(lambda: load_weights(path, ["conv1_1"])) < 8 << 20


def test_mean_activations_of_vgg_19_become_1(real_files, real_data, tmp_path):
    pictures = [load_image(path, 96) for path in sorted((real_data / "images").iterdir())[:3]]
    target = tmp_path / "normalised.h5"
    commands.normalise(real_files["keras"], target, pictures, open_engine("reference", "float32"))
    from nst_manual.weights.normalise import mean_activations

    means = mean_activations(load_weights(target, LAYERS), pictures, open_engine("reference", "float32"))
    for layer, mean in means.items():
        assert np.median(mean) == pytest.approx(1, rel=1e-3), layer


def test_the_real_pth_files_behave(real_data):
    folder = real_data / "pth"
    if not folder.is_dir():
        pytest.skip(f"no folder pth in {real_data}")
    few = load_weights(folder / "vgg_normalised_conv1_1.pth", LAYERS[:1])
    more = load_weights(folder / "vgg_normalised_conv3_1.pth", LAYERS[:5])
    np.testing.assert_array_equal(few.filters["conv1_1"][0], more.filters["conv1_1"][0])
    np.testing.assert_allclose(more.mean, OXFORD_MEAN_RGB, rtol=1e-6)
    with pytest.raises(NSTError, match="no layer conv3_2"):
        load_weights(folder / "vgg_normalised_conv3_1.pth", LAYERS)
    with pytest.raises(NSTError, match="cut short"):
        load_weights(folder / "TRUNCATED_vgg_normalised_adain_legacy.pth", LAYERS[:1])
