"""Make the README's gallery from real pictures with VGG-19's own weights.

python tools/gallery.py FOLDER docs/pictures/gallery.jpg --weights FILE

FOLDER must contain astronaut.png (NASA, public domain), chelsea.png (Stéfan van der Walt, CC0) and three paintings in
the public domain: starry_night.jpg (Vincent van Gogh, 1889), scream.jpg (Edvard Munch, 1893) and great_wave.jpg
(Katsushika Hokusai, 1831). The results stay in FOLDER; those that exist already are not made again.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFilter

import nst_manual
from nst_manual.pictures.sheets import Tile, sheet

COMMON: dict[str, Any] = {"size": 400}
FIGURE = (  # the outline of the astronaut and her helmet, in pixels of her 512 × 512 picture
    (20, 512), (38, 310), (60, 255), (120, 215), (130, 160), (290, 160), (305, 240), (345, 270), (362, 345),
    (400, 342), (455, 360), (495, 420), (505, 512),
)  # fmt: skip
HEAD = (150, 8, 305, 190)


class Made(NamedTuple):
    """One result: the names of its pictures, its caption, and its other options."""

    content: str
    styles: tuple[str, ...]
    caption: str
    options: dict[str, Any] = {}  # noqa: RUF012 — nothing changes it


MADE = {
    "starry": Made("astronaut.png", ("starry_night.jpg",), "Starry Night"),
    "masks": Made(
        "astronaut.png",
        ("scream.jpg", "starry_night.jpg"),
        "The Scream in her, Starry Night around",
        {"content_mask": ("figure.png", "around.png")},
    ),
    "scream": Made("chelsea.png", ("scream.jpg",), "The Scream"),
    "match": Made(
        "chelsea.png", ("great_wave.jpg",), "The Great Wave in the cat's colours: match", {"colors": "match"}
    ),
    "content": Made(
        "chelsea.png", ("starry_night.jpg",), "Starry Night, the cat's colours kept: content", {"colors": "content"}
    ),
}
ROWS = (("photograph", "starry", "masks"), ("scream", "match", "content"))


def draw_masks(folder: Path) -> None:
    mask = Image.new("L", (512, 512), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse(HEAD, fill=255)
    draw.polygon(FIGURE, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(4))
    mask.save(folder / "figure.png")
    mask.point(lambda value: 255 - value).save(folder / "around.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", default="vgg19")
    arguments = parser.parse_args()
    folder = arguments.folder
    draw_masks(folder)
    for name, made in MADE.items():
        result = folder / f"result_{name}.png"
        if not result.exists():
            options = {key: [folder / file for file in value] if "mask" in key else value
                       for key, value in made.options.items()}  # fmt: skip
            styles = [folder / style for style in made.styles]
            nst_manual.transfer(folder / made.content, styles, output=result, **COMMON, **options,
                                weights=arguments.weights)  # fmt: skip
        print(result, flush=True)
    photograph = Image.open(folder / "astronaut.png").convert("RGB")
    photograph.thumbnail((COMMON["size"], COMMON["size"]))
    tiles = {name: Tile(Image.open(folder / f"result_{name}.png"), made.caption) for name, made in MADE.items()}
    tiles["photograph"] = Tile(photograph, "the photograph")
    sheet("", [[tiles[name] for name in row] for row in ROWS]).save(
        arguments.output, quality=85, optimize=True, progressive=True
    )


if __name__ == "__main__":
    main()
