"""`evaluate`: how much of the style a result has, what it has kept of the content, its grain and its border."""

import argparse
from collections.abc import Iterator
from typing import Any

from ..study.looks import Looks, evaluate
from .options import add_command, add_options, given
from .report import DONE, tell

MEANINGS = {
    "style": "0 is the style picture itself, 1 is as far from it as the content picture",
    "content": "0 is the content picture itself, 1 is as unlike it as any other picture",
    "grain": "gray levels by which the finest detail exceeds that of both pictures",
    "border": "finest detail near the border against the inside; well above 1, there is a frame",
}


def add_parser(commands: Any) -> None:
    add = add_command(commands, "evaluate", "RESULT CONTENT STYLE [options]", run)
    add("pictures", "result", help="the picture to judge")
    add("pictures", "content", help="the photograph it was made from")
    add("pictures", "style", help="the painting it was made from")
    add_options(add, "evaluate")


def run(arguments: argparse.Namespace) -> int:
    """Measure how well a result has the style and keeps the content, by what was not optimised.

    evaluate result.png photo.jpg painting.jpg
    evaluate result.png photo.jpg painting.jpg --weights vgg19.h5 --json
    """
    looks = evaluate(arguments.result, arguments.content, arguments.style, **given(arguments, "evaluate"))
    tell(arguments, {"result": arguments.result} | looks.record(), *_table(looks))
    return DONE


def _table(looks: Looks) -> Iterator[str]:
    for name, meaning in MEANINGS.items():
        yield f"{name:<9}{getattr(looks, name):>8.3f}   {meaning}"
    yield ""
    yield f"{'':<17}" + "".join(f"{size:>9}" for size in looks.style_distances)
    for name, distances in (("style", looks.style_distances), ("content", looks.content_distances)):
        for layer in distances["full"]:
            numbers = "".join(f"{layers[layer]:>9.3f}" for layers in distances.values())
            yield f"{name:<9}{layer:<8}{numbers}"
    yield "finest detail: " + ", ".join(f"{name} {value:.2f}" for name, value in looks.detail.items())
