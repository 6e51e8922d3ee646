"""Compares L-BFGS-B with and without bounds on the pixels.

    python tools/bounds.py CONTENT STYLE [--weights FILE] [--size 512] [--iterations 100] [--sheet OUT.png]

For each start it prints seconds, evaluations, the optimiser's loss, the loss of the saved picture (clipped to 0 … 255
and rounded: the one that counts), and the share of values that had to be clipped.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from nst_manual.optimise import Lbfgsb
from nst_manual.pictures.reading import load_image
from nst_manual.pictures.writing import to_picture
from nst_manual.problem import build_network, choose_weights, make_objective
from nst_manual.runs.inputs import load_inputs, starting_image
from nst_manual.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("content")
    parser.add_argument("style")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="a PNG with the pictures side by side")
    arguments = parser.parse_args()

    pictures = []
    print(f"{'start':<8} {'bounds':<6} {'seconds':>8} {'calls':>6} {'its loss':>11} {'saved loss':>11} {'clipped':>8}")
    for init in ("content", "noise"):
        settings = Settings(style_loss="gram", size=arguments.size, weights=arguments.weights, init=init)
        inputs = load_inputs(settings, arguments.content, [arguments.style])
        network = build_network(settings, choose_weights(settings, inputs))
        objective = make_objective(settings, network, inputs.content, inputs.styles)
        start = starting_image(settings, inputs.content, inputs.styles)
        objective(start)  # warm
        for bounds in (False, True):
            began = time.perf_counter()
            outcome = Lbfgsb(objective, start, bounds=bounds).run(iterations=arguments.iterations)
            seconds = time.perf_counter() - began
            picture = to_picture(outcome.image)
            saved = objective(load_image(picture)).loss
            clipped = np.mean((outcome.image < 0) | (outcome.image > 255))
            row = f"{init:<8} {'yes' if bounds else 'no':<6} {seconds:8.1f} {outcome.evaluations:6}"
            print(f"{row} {outcome.loss:11.4g} {saved:11.4g} {clipped:8.1%}", flush=True)
            pictures.append(picture)
    if arguments.sheet:
        width, height = pictures[0].size
        sheet = Image.new("RGB", (len(pictures) * (width + 8) - 8, height), "white")
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (number * (width + 8), 0))
        sheet.save(arguments.sheet)


if __name__ == "__main__":
    main()
