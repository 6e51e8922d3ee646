"""`repeat`: the command that made a picture, from what is stored in it."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..runs.recipe import load_recipe, shown
from ..runs.repeating import Search, Work
from .options import add_command, add_options, add_output
from .report import DONE, say, say_json

log = logging.getLogger(__name__)


def add_parser(commands: Any) -> None:
    add = add_command(commands, "repeat", "OUT [--run] [-o NEW] [options]", run)
    add("pictures", "picture", type=Path, metavar="OUT", help="a picture that this program made")
    text = "where the pictures, masks and weights are (default: beside OUT, and in the current folder)"
    add("pictures", "--inputs", type=Path, nargs="+", default=(), metavar="FOLDER", help=text)
    add("run", "--run", dest="again", action="store_true", help="run the command as well")
    add("run", "--yes", action="store_true", help="run it even if it takes more than 1 h or 4 GB")
    add_output(add, "NEW", "the picture to write (default with --run: OUT.repeated.png)")
    add_options(add, "repeat")


def run(arguments: argparse.Namespace) -> int:
    """Print the command that made a picture, from what is stored in it.

    repeat result.png
    repeat result.png --run -o again.png
    """
    picture: Path = arguments.picture
    search = Search([*arguments.inputs, picture.parent, Path()])
    recipe = search.located(load_recipe(picture))
    if search.missing:
        names = ", ".join(dict.fromkeys(search.missing))
        lacking = f"{names}: not found beside {picture} or in the current folder; name the folder with --inputs"
        if arguments.again:
            raise NSTError(lacking)
        log.warning(lacking)
    beside = picture.with_name(f"{picture.stem}.repeated{picture.suffix}")  # keeps the picture to compare with
    words = recipe.command(str(arguments.output or (beside if arguments.again else picture)))
    for change in dict.fromkeys((*search.changed, *recipe.changes())):
        log.warning("%s: the result may differ: %s", picture, change)
    if arguments.json and not arguments.again:
        say_json(json.loads(recipe.to_json(str(picture))))
    elif not (arguments.again and (arguments.json or arguments.quiet)):
        say(shown(words))
    if not arguments.again:
        return DONE
    work = Work.of(recipe)
    if not arguments.yes:
        work.check()
    log.info("%s: %s", picture, work)
    words += [f"--{name}" for name in ("json", "quiet", "overwrite") if getattr(arguments, name, False)]
    words += [f"--threads={arguments.threads}"] if getattr(arguments, "threads", None) else []
    again = arguments.parse(words)
    code: int = again.run(again)
    return code
