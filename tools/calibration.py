"""How good are the calibrated filters? The real VGG-19, which played no part in making them, is the judge.

    python tools/calibration.py --weights vgg19.h5 --contents astronaut.png chelsea.png --styles starry.jpg scream.jpg \
        --demo --sheet sheet.png

Every content picture is transferred to every style with calibrated filters. The judge then measures, per style layer,
the style distance ‖G − A‖²/‖A‖² of the result divided by that of the content picture (0: the style is reached, 1: no
closer than before), their geometric mean, and the distance from the content, ‖F − P‖²/‖P‖² at conv4_2.
The exit code is 1 if a pair or the average misses its limit.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nst_manual
from nst_manual.engines import open_engine
from nst_manual.losses import moments
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_image
from nst_manual.pictures.sheets import Tile, sheet
from nst_manual.pictures.writing import to_picture
from nst_manual.vgg import Network, convolutions, steps_to, tapped
from nst_manual.weights import load_weights
from nst_manual.weights.calibrated import calibrate

STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CONTENT_LAYER = "conv4_2"
PAIR_LIMIT, MEAN_LIMIT, CONTENT_LIMIT = 0.35, 0.20, 1.5


class Verdict(NamedTuple):
    """The judge's measurements of one result: five ratios, their geometric mean, the distance from the content."""

    ratios: list[float]
    mean: float
    content: float

    @property
    def good(self) -> bool:
        return self.mean <= PAIR_LIMIT and self.content <= CONTENT_LIMIT


class Judge:
    """VGG-19 with its real weights."""

    def __init__(self, path: Path) -> None:
        steps = steps_to("conv5_1")
        weights = load_weights(path, convolutions(steps))
        self.network = Network.build(open_engine("cpu"), weights.filters, weights.mean, steps)

    def __call__(self, result: np.ndarray, content: np.ndarray, style: np.ndarray) -> Verdict:
        layers = (*STYLE_LAYERS, CONTENT_LAYER)
        f, p, a = (dict(tapped(self.network, image, layers)) for image in (result, content, style))
        ratios = []
        for layer in STYLE_LAYERS:
            of_result, of_content, target = (moments(features[layer]).second for features in (f, p, a))
            ratios.append(_distance(of_result, target) / _distance(of_content, target))
        mean = float(np.exp(np.mean(np.log(ratios))))
        return Verdict(ratios, mean, _distance(f[CONTENT_LAYER], p[CONTENT_LAYER]))


def _distance(x: np.ndarray, target: np.ndarray) -> float:
    return float(np.sum((x - target) ** 2, dtype=np.float64) / np.sum(target**2, dtype=np.float64))


def pairs(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, content, style), each at most `--size` pixels on its longer side."""
    for content in options.contents:
        for style in options.styles:
            name = f"{content.stem} + {style.stem}"
            yield name, load_image(content, options.size), load_image(style, options.size)
    if options.demo:
        width, height = options.size, options.size * 3 // 4
        yield "scene + painting", load_image(scene(width, height)), load_image(painting(width, height))


def main() -> int:
    options = _parse()
    judge = Judge(options.weights)
    common: dict[str, Any] = {"size": options.size, "iterations": options.iterations, "seed": options.seed}
    common["engine"] = "cpu"
    print(f"{'':42}{''.join(f'{layer:>9}' for layer in STYLE_LAYERS)}{'mean':>9}{'content':>9}{'prepared':>10}")
    verdicts, names, rows = [], [], []
    for name, content, style in pairs(options):
        began = time.perf_counter()
        calibrate(content, [style], "conv5_1", seed=options.seed)
        seconds = time.perf_counter() - began
        result = nst_manual.transfer(content, style, weights="calibrated", **common).pixels
        result = np.clip(result, 0, 255)
        verdict = judge(result, content, style)
        numbers = "".join(f"{number:9.3f}" for number in (*verdict.ratios, verdict.mean, verdict.content))
        print(f"{name[:41]:42}{numbers}{seconds:8.1f} s  {'good' if verdict.good else 'MISSED'}", flush=True)
        pictures = [("content", content), ("style", style), (f"calibrated, {verdict.mean:.3f}", result)]
        if options.compare:
            other = nst_manual.transfer(content, style, weights=str(options.weights), **common).pixels
            other = np.clip(other, 0, 255)
            pictures.append((f"VGG-19's own, {judge(other, content, style).mean:.3f}", other))
        verdicts.append(verdict)
        names.append(name.replace(" + ", "\n"))
        rows.append([Tile(to_picture(pixels), caption) for caption, pixels in pictures])
    average = float(np.mean([verdict.mean for verdict in verdicts]))
    good = average <= MEAN_LIMIT and all(verdict.good for verdict in verdicts)
    print(
        f"average {average:.3f}, limit {MEAN_LIMIT}; limit for each {PAIR_LIMIT}, content {CONTENT_LIMIT}: ",
        end="",
    )
    print("good" if good else "MISSED")
    if options.sheet:
        sheet("", rows, names).save(options.sheet)
    return 0 if good else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="the judge: real VGG-19 weights")
    parser.add_argument("--contents", type=Path, nargs="*", default=[], metavar="PICTURE")
    parser.add_argument("--styles", type=Path, nargs="*", default=[], metavar="PICTURE")
    parser.add_argument("--demo", action="store_true", help="add the two drawn demo pictures")
    parser.add_argument("--size", type=int, default=192, help="longer side in pixels (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=40, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write all pictures as one labelled sheet")
    parser.add_argument("--compare", action="store_true", help="add the result with the judge's own weights")
    options = parser.parse_args()
    if not options.demo and not (options.contents and options.styles):
        parser.error("give --contents and --styles, or --demo")
    return options


if __name__ == "__main__":
    sys.exit(main())
