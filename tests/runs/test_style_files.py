"""Kept styles: the same picture as from the style's picture, or one sentence; and their files, hostile ones too."""

import io
import json
import zipfile

import numpy as np
import pytest
from picture_files import grains

from nst_manual import NSTError, StyleTargets, compute_targets, figure, styles, transfer, transfer_many
from nst_manual.cli.main import main
from nst_manual.proof.checks import random_filters
from nst_manual.runs.recipe import load_recipe
from nst_manual.settings import Settings
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

LAYERS = {"style_layers": "conv1_1,pre:conv2_1", "content_layers": "conv2_2"}
QUICK = {"size": 32, "iterations": 2, "engine": "reference", **LAYERS}
KEEPING = {"size": 32, "engine": "reference", "style_layers": LAYERS["style_layers"]}


def made_weights(path, seed):
    filters = random_filters(steps_to("conv2_2"), seed)
    write_hdf5(path, Weights(filters, (120.0, 115.0, 100.0), "oxford", f"made here, {seed}", "none"))
    return str(path)


@pytest.fixture
def weights(tmp_path):
    return made_weights(tmp_path / "weights.h5", 1)


@pytest.fixture
def pictures(tmp_path):
    grains(64, 48).save(tmp_path / "content.png")
    grains(60, 80).save(tmp_path / "style.png")
    return str(tmp_path / "content.png"), str(tmp_path / "style.png")


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("scales", ["off", "16,32"])
def test_a_kept_style_makes_the_picture_that_its_own_picture_makes(tmp_path, pictures, weights, engine, scales):
    content, style = pictures
    options = {**QUICK, "weights": weights, "engine": engine, "scales": scales}
    targets = compute_targets(style, **{**KEEPING, "weights": weights, "engine": engine, "scales": scales})
    targets.save(tmp_path / "style.npz")
    expected = transfer(content, style, **options).pixels
    np.testing.assert_array_equal(transfer(content, targets, **options).pixels, expected)
    np.testing.assert_array_equal(transfer(content, tmp_path / "style.npz", **options).pixels, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_a_large_style_is_kept_tile_by_tile(pictures, weights, monkeypatch, masked):
    mask = np.zeros((80, 60, 3))
    mask[30:] = 255
    options = {**KEEPING, "weights": weights, "scales": "off", **({"style_mask": mask} if masked else {})}
    whole = compute_targets(pictures[1], **options)
    monkeypatch.setattr(styles, "TILE", 8)
    parts = compute_targets(pictures[1], **options)
    for size, layers in whole.moments.items():
        for layer, expected in layers.items():
            for ours, theirs in zip(parts.moments[size][layer], expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("loss", "limit"), [("gram", 1e-3), ("transport", 1e-2)])  # kept moments are rounded
def test_a_part_of_a_picture_can_be_kept_and_blended_with_another_style_and_go_to_a_region(
    pictures, weights, loss, limit
):
    content, style = pictures
    mask, region = (np.zeros((*size, 3)) for size in ((80, 60), (48, 64)))
    mask[:40], region[:, 20:] = 255, 255
    options = {**QUICK, "weights": weights, "style_loss": loss, "padding": "replicate", "scales": "off"}
    options["style_blend"] = "3,1"
    targets = compute_targets(style, style_mask=mask, **KEEPING, weights=weights)
    whole = np.full((60, 70, 3), 255.0)
    by_picture = transfer(
        content, [style, grains(70, 60)], style_mask=[mask, whole], content_mask=[region, region], **options
    )
    kept = transfer(content, [targets, grains(70, 60)], content_mask=[region, region], **options)
    np.testing.assert_allclose(kept.pixels, by_picture.pixels, atol=limit)


def test_a_kept_style_has_the_scale_of_its_place_among_several(pictures, weights):
    content, style = pictures
    options = {**QUICK, "weights": weights, "scales": "off"}
    targets = compute_targets(style, **{**KEEPING, "style_scale": 0.5}, weights=weights)
    by_pictures = transfer(content, [style, style], style_scale="1,0.5", **options).pixels
    np.testing.assert_allclose(
        transfer(content, [style, targets], style_scale="1,0.5", **options).pixels, by_pictures, atol=1e-3
    )
    with pytest.raises(NSTError, match="holds the style at 16 pixels, and 32 are asked for"):
        transfer(content, [targets, style], style_scale="1,0.5", **options)
    with pytest.raises(NSTError, match="style_scale must be one number"):
        compute_targets(style, **{**KEEPING, "style_scale": "1,0.5"}, weights=weights)


def test_the_same_style_makes_the_same_file_and_comes_back_as_it_was(tmp_path, pictures, weights):
    targets = compute_targets(pictures[1], **KEEPING, weights=weights, scales="16,32")
    for name in ("one.npz", "two.npz"):
        targets.save(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = StyleTargets.load(tmp_path / "one.npz")
    assert list(again.moments) == [(16, 12), (32, 24)]
    for size, moments in targets.moments.items():
        for layer, found in moments.items():
            for one, other in zip(again.moments[size][layer], found, strict=True):
                np.testing.assert_array_equal(one, other)
    changed = ("file",)
    assert {k: v for k, v in again.about().items() if k not in changed} == {
        k: v for k, v in targets.about().items() if k not in changed
    }
    with np.load(tmp_path / "one.npz") as arrays:  # by anybody
        assert arrays["32x24/conv1_1"].shape == (64, 64)
        assert arrays["32x24/conv1_1.mean"].shape == (64,)


def test_a_smaller_size_or_fewer_layers_or_another_content_need_no_new_file(pictures, weights):
    content, style = pictures
    targets = compute_targets(style, **KEEPING, weights=weights)
    options = {**QUICK, "weights": weights}
    near = transfer(content, targets, **{**options, "size": 28})
    assert near.image.size == (28, 21)
    transfer(content, targets, **{**options, "style_layers": "conv1_1", "content_weight": 9.0, "optimizer": "adam"})


def test_the_size_that_a_run_asks_for_is_that_of_the_picture(pictures, weights):
    picture = pictures[1]  # 60×80

    def side(keeping, **options):
        return compute_targets(picture, **{**KEEPING, **keeping}, weights=weights).side(Settings(**options))

    assert side({}, size=32) == 32
    assert side({}, size=64) == 64  # which it lacks
    assert side({"size": 200}, size=200) == side({"size": 200}, size=300) == side({"size": None}, size=None) == 80
    assert side({"size": 200}, size=300, enlarge=True) == 300
    assert side({"size": 200}, size=60) == 60
    assert side({"size": 40, "style_scale": 0.5}, size=40, style_scale=0.5) == 20
    assert side({"style_size": 48}, size=32, style_size=48) == 48
    with pytest.raises(NSTError, match="doesn't know its picture's own size"):
        side({}, size=None)


REFUSED = {
    "a size that it lacks": ({"size": 64}, "holds the style at 32 pixels, and 64 are asked for"),
    "a scale that it lacks": ({"scales": "16,32"}, "holds the style at 32 pixels, and 16 are asked for"),
    "a layer that it lacks": ({"style_layers": "conv1_1,conv1_2"}, "no moments of conv1_2, only of conv1_1, pre:"),
    "another pooling": ({"pooling": "max"}, "made with --pooling avg, not max"),
    "another padding": ({"padding": "zero"}, "made with --padding replicate, not zero"),
    "other weights": ({"weights": "other"}, r"other weights \(made here, 1; now made here, 2\)"),
    "calibrated weights": ({"weights": "calibrated"}, "made with pretrained weights, and there are none"),
    "the content's colours": ({"colors": "content"}, "holds no picture, which --colors content needs"),
    "matched colours": ({"colors": "match"}, "holds no picture, which --colors match needs"),
    "the style as the start": ({"init": "style"}, "--init style needs the style's picture"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_kept_style_cannot_do_is_told_before_the_work(tmp_path, pictures, weights, reason):
    targets = compute_targets(pictures[1], **KEEPING, weights=weights)
    options, sentence = REFUSED[reason]
    options = {**QUICK, "weights": weights, **options}
    if options["weights"] == "other":
        options["weights"] = made_weights(tmp_path / "other.h5", 2)
    with pytest.raises(NSTError, match=sentence):
        transfer(pictures[0], targets, callback=pytest.fail, **options)


def test_the_repeated_edge_is_kept_with_the_style_and_a_file_that_does_not_say_has_zeros(tmp_path, pictures, weights):
    options = {**QUICK, "weights": weights, "padding": "replicate"}
    path = tmp_path / "style.npz"
    compute_targets(pictures[1], **KEEPING, weights=weights, padding="replicate").save(path)
    by_picture = transfer(*pictures, **options).pixels
    np.testing.assert_allclose(transfer(pictures[0], path, **options).pixels, by_picture, atol=1e-3)
    with pytest.raises(NSTError, match="made with --padding replicate, not zero"):
        transfer(pictures[0], path, **{**options, "padding": "zero"})
    about = json.loads(about_with(path))
    del about["padding"]
    rewritten(path, {"about.json": json.dumps(about).encode()})
    assert StyleTargets.load(path).padding == "zero"


def test_a_style_mask_needs_the_picture(pictures, weights):
    targets = compute_targets(pictures[1], **KEEPING, weights=weights)
    with pytest.raises(NSTError, match="which --style-mask needs"):
        transfer(pictures[0], targets, style_mask=[np.zeros((80, 60, 3))], weights=weights, **QUICK)


def test_weights_that_differ_beyond_the_layers_in_use_do_not_matter(tmp_path, pictures, weights):
    filters = random_filters(steps_to("conv2_2"), 1)
    filters["conv2_2"] = random_filters(steps_to("conv2_2"), 2)["conv2_2"]
    other = tmp_path / "other.h5"
    write_hdf5(other, Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    targets = compute_targets(pictures[1], **KEEPING, weights=weights)
    transfer(pictures[0], targets, weights=str(other), **QUICK)


def test_a_style_is_not_kept_without_pretrained_weights_or_its_picture(pictures, weights):
    with pytest.raises(NSTError, match="there are none: `python -m nst_manual weights get`"):
        compute_targets(pictures[1], **KEEPING)
    with pytest.raises(NSTError, match="a kept style already"):
        compute_targets(compute_targets(pictures[1], **KEEPING, weights=weights), **KEEPING, weights=weights)


def test_a_picture_made_with_a_kept_style_can_be_repeated(tmp_path, pictures, weights, capsys):
    compute_targets(pictures[1], **KEEPING, weights=weights).save(tmp_path / "style.npz")
    first = transfer(pictures[0], tmp_path / "style.npz", weights=weights, **QUICK)
    first.save(tmp_path / "out.png")
    source = load_recipe(tmp_path / "out.png").styles[0]
    assert source.name == "style.npz"
    assert main(["repeat", str(tmp_path / "out.png"), "--run", "--quiet"]) == 0
    assert (tmp_path / "out.repeated.png").read_bytes() != b""
    again = load_recipe(tmp_path / "out.repeated.png")
    assert (again.result, again.styles[0].sha256) == (load_recipe(tmp_path / "out.png").result, source.sha256)
    compute_targets(grains(40, 40), **KEEPING, weights=weights).save(tmp_path / "style.npz")
    main(["repeat", str(tmp_path / "out.png")])
    assert "style.npz is not the file that was used then" in capsys.readouterr().err


def test_a_batch_takes_kept_styles(tmp_path, pictures, weights):
    compute_targets(pictures[1], **KEEPING, weights=weights).save(tmp_path / "kept.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    pairs = transfer_many(pictures[0], str(tmp_path / "*.npz"), weights=weights, **QUICK)
    kept, other = (pair.result for pair in pairs)
    np.testing.assert_array_equal(kept.pixels, transfer(*pictures, weights=weights, **QUICK).pixels)
    assert "no file of `style-targets save`" in str(other)


def test_the_commands_save_and_load(tmp_path, pictures, weights, capsys):
    out = str(tmp_path / "style.npz")
    words = ["--size", "32", "--scales", "16,32", "--engine", "reference", "--style-layers", "conv1_1"]
    save = ["style-targets", "save", pictures[1], "-o", out, "--weights", weights, *words]
    assert main(save) == 0
    told = capsys.readouterr().out
    assert "at 12×16, 24×32" in told
    assert main(["style-targets", "load", out]) == 0
    assert capsys.readouterr().out == told
    assert main(["style-targets", "load", out, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["sizes"] == [[12, 16], [24, 32]]
    assert about["layers"] == ["conv1_1"]
    assert main(save) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*save, "--overwrite", "--quiet"]) == 0
    assert main(["style-targets", "load", pictures[1]]) == 2
    assert main(["style-targets", "load", str(tmp_path / "missing.npz")]) == 2
    assert main(["style-targets", "save", pictures[1], "-o", str(tmp_path / "style.h5")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nst_manual: ")]
    assert len(lines) == 3


def rewritten(path, entries, **kinds):
    """The archive with entries replaced, added, or left out (None)."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()} | entries
    with zipfile.ZipFile(path, "w", **kinds) as archive:
        for name, data in found.items():
            if data is not None:
                archive.writestr(name, data)


def about_with(path, **changes):
    with zipfile.ZipFile(path) as archive:
        return json.dumps(json.loads(archive.read("about.json")) | changes).encode()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GRAM, MEAN = "32x24/conv1_1.npy", "32x24/conv1_1.mean.npy"
OTHERS = "32x24/pre:conv2_1.npy", "32x24/pre:conv2_1.mean.npy"
HUGE = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (64, 6400000000000), }".ljust(127) + b"\n"
)
HOSTILE = {
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "compressed": lambda path: rewritten(path, {}, compression=zipfile.ZIP_DEFLATED),
    "nothing about itself": lambda path: rewritten(path, {"about.json": None}),
    "no JSON": lambda path: rewritten(path, {"about.json": b"{"}),
    "JSON too deep": lambda path: rewritten(path, {"about.json": b"[" * 90_000}),
    "JSON too long": lambda path: rewritten(path, {"about.json": b" " * 200_000}),
    "a list": lambda path: rewritten(path, {"about.json": b"[]"}),
    "of another version": lambda path: rewritten(path, {"about.json": about_with(path, version=3)}),
    "an unknown pooling": lambda path: rewritten(path, {"about.json": about_with(path, pooling="max; rm")}),
    "an unknown padding": lambda path: rewritten(path, {"about.json": about_with(path, padding=["zero"])}),
    "weights of a list": lambda path: rewritten(path, {"about.json": about_with(path, weights=["conv1_1"])}),
    "weights of no layer": lambda path: rewritten(
        path, {"about.json": about_with(path, weights={"conv9_9": "0" * 64})}
    ),
    "no checksum": lambda path: rewritten(path, {"about.json": about_with(path, weights={"conv1_1": 5})}),
    "a picture that is a number": lambda path: rewritten(path, {"about.json": about_with(path, picture=5)}),
    "no moments": lambda path: rewritten(path, dict.fromkeys((GRAM, MEAN, *OTHERS))),
    "a vector is missing": lambda path: rewritten(path, {MEAN: None}),
    "another vector": lambda path: rewritten(path, {MEAN: npy(np.ones(63))}),
    "a matrix is missing": lambda path: rewritten(path, {GRAM: None}),
    "a matrix too many": lambda path: rewritten(path, {"16x12/conv1_1.npy": npy(np.eye(64, dtype="f4"))}),
    "a path": lambda path: rewritten(path, {"../evil.npy": b""}),
    "a size of nothing": lambda path: rewritten(path, {"0x24/conv1_1.npy": npy(np.eye(64, dtype="f4"))}),
    "another shape": lambda path: rewritten(path, {GRAM: npy(np.eye(63, dtype="f4"))}),
    "a shape beyond all memory": lambda path: rewritten(path, {GRAM: HUGE}),
    "whole numbers": lambda path: rewritten(path, {GRAM: npy(np.eye(64, dtype=int))}),
    "objects": lambda path: rewritten(path, {GRAM: npy(np.array([{}], dtype=object))}),
    "not finite": lambda path: rewritten(path, {GRAM: npy(np.full((64, 64), np.nan, "f4"))}),
    "no array": lambda path: rewritten(path, {GRAM: b"junk"}),
}


def test_a_file_of_the_first_version_which_has_no_vectors_still_makes_the_picture(tmp_path, pictures, weights):
    path = tmp_path / "style.npz"
    compute_targets(pictures[1], **KEEPING, padding="zero", weights=weights).save(path)
    expected = transfer(pictures[0], path, weights=weights, style_loss="gram", **QUICK).pixels
    rewritten(path, {MEAN: None, OTHERS[1]: None, "about.json": about_with(path, version=1)})
    again = transfer(pictures[0], path, weights=weights, style_loss="gram", **QUICK)
    np.testing.assert_array_equal(again.pixels, expected)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_one_sentence(tmp_path, pictures, weights, capsys, name):
    path = tmp_path / "style.npz"
    compute_targets(pictures[1], **KEEPING, weights=weights).save(path)
    HOSTILE[name](path)
    assert main(["style-targets", "load", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("weights: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"nst_manual: {path}: ")
    with pytest.raises(NSTError):
        transfer(pictures[0], path, weights=weights, **QUICK)


def test_text_in_a_file_steers_no_terminal(tmp_path, pictures, weights, capsys):
    path = tmp_path / "style.npz"
    compute_targets(pictures[1], **KEEPING, weights=weights).save(path)
    rewritten(path, {"about.json": about_with(path, picture="\x1b[2J", source="a\nb")})
    assert main(["style-targets", "load", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_bytes_changed_at_random_never_do_worse(tmp_path, pictures, weights, rng):
    path = tmp_path / "style.npz"
    compute_targets(pictures[1], **KEEPING, weights=weights).save(path)
    whole = path.read_bytes()
    ends = 0
    for _ in range(60):
        data = bytearray(whole)
        where = rng.integers(0, 700) if rng.random() < 0.5 else -rng.integers(1, 400)  # heads and the directory
        data[where] = rng.integers(256)
        path.write_bytes(data)
        try:
            StyleTargets.load(path)
        except NSTError:
            ends += 1
    assert ends > 10


def test_a_figure_wants_pictures(tmp_path, pictures, weights):
    targets = compute_targets(pictures[1], **KEEPING, weights=weights)
    options = {**QUICK, "weights": weights, "output": tmp_path / "figure.png"}
    del options["style_layers"], options["content_layers"]
    with pytest.raises(NSTError, match="give pictures instead of style files"):
        figure("style", targets, **options, style_layers=KEEPING["style_layers"])
    assert not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("place", ["style", "--style-mask", "--weights"])
def test_a_style_file_is_never_written_over_what_is_read(tmp_path, capsys, place):
    read = tmp_path / "read.npz"
    read.write_bytes(b"as it was")
    words = [str(read)] if place == "style" else ["style.png", place, str(read)]
    assert main(["style-targets", "save", *words, "-o", str(read), "--overwrite"]) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert read.read_bytes() == b"as it was"
