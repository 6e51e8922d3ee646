"""How a result looks, in numbers: the order of pictures whose order is obvious."""

import json

import numpy as np
import pytest
from picture_files import grains
from PIL import Image, ImageFilter

import nst_manual
from nst_manual import NSTError
from nst_manual.cli.main import main
from nst_manual.engines import open_engine
from nst_manual.pictures.reading import load_image
from nst_manual.proof.checks import MEAN, NARROW, random_filters
from nst_manual.settings import settings_of
from nst_manual.study import looks
from nst_manual.study.looks import CONTENT_LAYERS, STYLE_LAYERS, Measure, judge
from nst_manual.vgg import Network, steps_to

LAYERS = {*STYLE_LAYERS, *CONTENT_LAYERS}
FOUR = ("style", "content", "grain", "border")


def narrow(engine="reference", precision="float64"):
    steps = steps_to(LAYERS, NARROW)
    return Network.build(open_engine(engine, precision), random_filters(NARROW, 1), MEAN, steps, "max", LAYERS)


def photograph(height, width):
    """Smooth shapes."""
    y, x = np.mgrid[:height, :width] * (80 / height)
    rgb = 60 * np.sin(x / 17) * np.cos(y / 23), 80 * np.cos((x + y) / 29), 60 * np.sin(y / 13)
    return (128 + np.stack(rgb, axis=2)).astype(np.float32)


def canvas(height, width):
    """Winding strokes."""
    y, x = np.mgrid[:height, :width]
    strokes = np.sin(0.6 * x + 4 * np.sin(y / 11))[:, :, None]
    return (120 + 80 * strokes * [1, 0.5, -0.8] + [30, 10, -20]).astype(np.float32)


def blurred(image, radius):
    picture = Image.fromarray(image.round().astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def framed(image):
    image = image.copy()
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 0
    return image


def pictures_in_order(content, style):
    """Of one size: results with an obvious order."""
    rng = np.random.default_rng(5)
    mixed = (content + style) / 2
    return {
        "content": content,
        "style": style,
        "noise": rng.uniform(0, 255, content.shape),
        "blur": blurred(style, 2),
        "more blur": blurred(style, 6),
        "mixed": mixed,
        "grain": np.clip(mixed + rng.normal(0, 8, mixed.shape), 0, 255),
        "more grain": np.clip(mixed + rng.normal(0, 24, mixed.shape), 0, 255),
        "frame": framed(mixed),
    }


def check_order(looks):
    assert looks["content"].style == pytest.approx(1)
    assert looks["content"].content == 0
    assert looks["style"].style < 1e-3 < looks["blur"].style < looks["more blur"].style
    assert looks["mixed"].style < 1
    assert 0.05 < looks["mixed"].content < looks["style"].content
    assert looks["mixed"].content < looks["more grain"].content < looks["noise"].content
    assert looks["content"].grain == looks["style"].grain == looks["blur"].grain == 0
    assert looks["mixed"].grain < looks["grain"].grain < looks["more grain"].grain < looks["noise"].grain
    assert looks["content"].border <= 1
    assert looks["style"].border <= 1
    assert looks["mixed"].border < 1.3
    assert looks["grain"].border < 1.3
    assert looks["frame"].border > 1.8


@pytest.fixture(scope="module")
def drawings():
    return photograph(80, 96), canvas(80, 96)


def test_pictures_of_an_obvious_order_are_in_that_order(drawings):
    measure = Measure(narrow(), *drawings)
    check_order({name: measure(x) for name, x in pictures_in_order(*drawings).items()})


def test_with_real_weights_they_are_too(real_data, vgg19):
    content, style = (
        load_image(Image.open(real_data / "images" / name).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS))
        for name in ("content_astronaut.png", "style_starry_night.jpg")
    )
    measure = Measure(judge(weights=str(vgg19)), content, style)
    check_order({name: measure(x) for name, x in pictures_in_order(content, style).items()})


def test_the_judge_is_vgg_as_it_was_trained():
    settings = settings_of("evaluate", {})
    assert settings.steps() == steps_to(LAYERS)
    assert (settings.pooling, settings.padding) == ("max", "zero")


def test_every_engine_measures_the_same(drawings):
    result = (drawings[0] + drawings[1]) / 2
    exact, quick = (Measure(network, *drawings)(result) for network in (narrow(), narrow("cpu", "float32")))
    for name in FOUR:
        assert getattr(quick, name) == pytest.approx(getattr(exact, name), rel=1e-3)


def test_a_picture_in_tiles_and_strips_is_measured_as_a_whole_one(drawings, monkeypatch):
    content, style = (picture.astype(np.float64) for picture in drawings)
    network, result = narrow(), framed(content + style) / 2
    whole = Measure(network, content, style)(result)
    monkeypatch.setattr(looks, "TILE", 48)
    monkeypatch.setattr(looks, "STRIP", 7)
    owned = []
    walked = looks.InTiles.walked

    def seen(*arguments):
        for cut, features in walked(*arguments):
            owned.append((cut.name, cut.owns_all))
            yield cut, features

    monkeypatch.setattr(looks.InTiles, "walked", seen)
    parts = Measure(network, content, style)(result)
    assert ("conv1_2", False) in owned
    for distances in ("style_distances", "content_distances"):
        for size, layers in getattr(whole, distances).items():
            assert getattr(parts, distances)[size] == pytest.approx(layers, rel=1e-9)
    assert (parts.grain, parts.border) == (whole.grain, whole.border)
    assert parts.detail == whole.detail


def test_what_is_kept_does_not_depend_on_the_size_of_the_picture(drawings):
    network = narrow()
    found = []
    for times in (1, 3):  # nine times the positions, of which every ninth is compared
        content, style = (np.tile(image, (times, times, 1)) for image in drawings)
        looks = Measure(network, content, style)((content + style) / 2)
        found.append(looks.content_distances["full"]["conv3_3"])
    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_content_and_style_get_the_sizes_of_a_run(monkeypatch):
    given = []

    class Told:
        def __init__(self, *arguments):
            given.extend(arguments)

        __call__ = __init__

    monkeypatch.setattr("nst_manual.study.looks.judge", lambda **options: "network")
    monkeypatch.setattr("nst_manual.study.looks.Measure", Told)
    nst_manual.evaluate(grains(96, 72), grains(320, 240), grains(200, 160))
    assert [image.shape for image in given[1:]] == [(72, 96, 3), (77, 96, 3), (72, 96, 3)]


def test_pictures_that_do_not_belong_together_are_told(drawings, monkeypatch):
    network = narrow()
    monkeypatch.setattr("nst_manual.study.looks.judge", lambda **options: network)
    with pytest.raises(NSTError, match="RESULT is 96×80 and CONTENT 80×96 pixels"):
        nst_manual.evaluate(grains(96, 80), grains(80, 96), grains(96, 80))
    with pytest.raises(NSTError, match="the smallest side of these pictures is 40 pixels, but must be at least 64"):
        nst_manual.evaluate(grains(96, 80), grains(96, 80), grains(40, 80))
    with pytest.raises(NSTError, match="CONTENT and STYLE are the same to the judge"):
        Measure(network, drawings[0], drawings[0])(drawings[1])


def test_without_pretrained_weights_one_sentence_says_what_is_needed(tmp_path, capsys):
    grains(96, 80).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    for choice in ("auto", "calibrated"):
        assert main(["evaluate", path, path, path, "--weights", choice]) == 2
        assert "these numbers need VGG-19's own weights" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_shows_a_table_or_one_object(tmp_path, drawings, capsys, monkeypatch):
    network = narrow()
    monkeypatch.setattr("nst_manual.study.looks.judge", lambda **options: network)
    paths = [str(tmp_path / name) for name in ("result.png", "content.png", "style.png")]
    for path, image in zip(paths, ((drawings[0] + drawings[1]) / 2, *drawings), strict=True):
        Image.fromarray(image.round().astype(np.uint8)).save(path)
    words = ["evaluate", *paths]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {"result", *FOUR, "style_distances", "content_distances", "detail"}
    distances = [distance for layers in record["style_distances"].values() for distance in layers.values()]
    assert len(distances) == 12
    assert record["style"] == pytest.approx(np.mean(distances))
    assert main(words) == 0
    table = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{table}" for name in FOUR)
    assert all(layer in table for layer in LAYERS)
