"""Make the README's picture: the demo's two drawings and its result, side by side.

python -m nst_manual demo && python tools/readme_picture.py nst_manual_demo docs/pictures/demo.jpg
"""

import argparse
from pathlib import Path

from PIL import Image

GAP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that `demo` wrote")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    pictures = [Image.open(arguments.folder / f"{name}.png") for name in ("content", "style", "result")]
    width, height = pictures[-1].size
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture.convert("RGB").resize((width, height)), (place * (width + GAP), 0))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.output, quality=88, optimize=True, progressive=True)


if __name__ == "__main__":
    main()
