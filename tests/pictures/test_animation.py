"""A run as an animation."""

import io

import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError
from nst_manual.cli.main import main
from nst_manual.pictures.animation import FRAMES, animation, check_animation, is_due, packed
from nst_manual.pictures.demo import painting, scene


@pytest.mark.parametrize("iterations", [1, 7, 60, 61, 1000])
def test_frames_are_spread_over_the_run_and_end_with_it(iterations):
    due = [iteration for iteration in range(1, iterations + 1) if is_due(iteration, iterations)]
    assert due[0] == 1
    assert due[-1] == iterations
    assert min(iterations, FRAMES) <= len(due) <= FRAMES + 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_coarse_frames_get_the_size_of_the_last_one(kind):
    frames = [packed(np.full((side, 2 * side, 3), level, np.float32)) for side, level in ((8, 0), (16, 90), (30, 255))]
    with Image.open(io.BytesIO(animation(frames, kind))) as picture:
        assert (picture.format, picture.size, picture.n_frames) == (kind, (60, 30), 3)
        levels = []
        for number in range(3):
            picture.seek(number)
            levels.append(np.asarray(picture.convert("RGB")).mean())
        assert levels == pytest.approx([0, 90, 255], abs=3)


def test_another_ending_is_refused_before_the_work(tmp_path):
    with pytest.raises(NSTError, match=r"\.gif or \.webp"):
        check_animation(tmp_path / "run.mp4")


def test_the_command_writes_one_and_does_not_overwrite_it(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("c.png", "s.png", "out.png", "run.webp")]
    for draw, path in zip((scene, painting), paths, strict=False):
        draw(64, 48).resize((40, 32)).save(path)
    words = ["transfer", *paths[:2], "-o", paths[2], "--animation", paths[3], "--iterations", "4", "--size", "40"]
    words += ["--scales", "24", "--style-layers", "conv1_1", "--content-layers", "conv1_1", "--quiet"]
    assert main(words) == 0
    with Image.open(paths[3]) as picture:
        assert (picture.size, picture.n_frames) == ((40, 32), 6)  # iterations: four and two
    assert main([*words, "-o", str(tmp_path / "other.png")]) == 2
    assert "exists already" in capsys.readouterr().err
