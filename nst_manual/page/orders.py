"""What the page may ask for: pictures by their ids, and the options offered here. Each is checked before a run begins.

No path comes from the browser: `weights` and `init` take words alone.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import NSTError
from ..options import Field, OptionError, kind_of
from ..options import checked as checked_option
from ..pictures.animation import packed
from ..pictures.reading import STANDARD_INPUT, load_picture
from ..settings import STARTS, Settings, help_text, options_of, settings_of
from ..weights import GET_COMMAND, INSTALLED_NAME, find_weights
from .store import Store

# The options of a transfer that the page offers, in the order of its second list.
OFFERED = (
    *("size", "strength", "style_scale", "colors", "style_loss", "weights", "quick"),
    *("iterations", "later_iterations", "preset", "init", "seed", "optimizer", "tv_weight", "laplacian_weight"),
    *("color_match", "pooling", "padding", "enlarge", "content_layers", "style_layers"),
)
WORDS = {"weights": ("auto", "vgg19", "calibrated"), "init": STARTS}
MOST_STYLES, MOST_SIZE = 8, 8192
LATER = 0.4  # of a run's iterations, at each scale of one that continues it larger


def offered() -> list[dict[str, Any]]:
    """The options with their help, for the page."""
    fields = options_of("transfer")
    return [_described(fields[name]) for name in OFFERED]


def _described(field: Field) -> dict[str, Any]:
    kind, _ = kind_of(field)
    choices = WORDS.get(field.name) or field.metadata["choices"]
    default = getattr(Settings(), field.name)
    about = {"name": field.name, "help": field.metadata["help"], "default": default, "choices": choices}
    return about | {"kind": kind.__name__, "full_help": help_text(field, {})}


def network() -> dict[str, Any]:
    """Whether VGG-19's own weights are here, and how to get them."""
    return {"vgg19": find_weights("auto") is not None, "get": GET_COMMAND, "file": INSTALLED_NAME}


def checked(order: Any, store: Store) -> dict[str, Any]:
    """An order with nothing in it but what it may have; NSTError says what is wrong."""
    if not isinstance(order, dict):
        raise NSTError("an order must be an object")
    content = store.picture(order.get("content"))
    given = order.get("styles")
    if not isinstance(given, list) or not given:
        raise NSTError("there is no style picture: drop at least one")
    if len(given) > MOST_STYLES:
        raise NSTError(f"there are {len(given)} style pictures, and at most {MOST_STYLES} are possible: remove some")
    styles = [_style(style, store) for style in given]
    options = _options(order.get("options", {}))
    settings_of("transfer", options | ({"style_blend": _blend(styles)} if len(styles) > 1 else {}))
    if sum(style["share"] for style in styles) <= 0:
        raise NSTError("every style's share is 0: give at least one a share")
    return {"content": content["id"], "styles": styles, "options": options}


def _style(style: Any, store: Store) -> dict[str, Any]:
    if not isinstance(style, dict):
        raise NSTError("a style must be an object")
    share = style.get("share", 1)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1000:
        raise NSTError(f"a style's share must be a number from 0 to 1000, not {str(share)[:20]}")
    masks = {kind: None if style.get(kind) is None else store.picture(style[kind])["id"] for kind in ("where", "part")}
    return {"picture": store.picture(style.get("picture"))["id"], "share": share, **masks}


def _options(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise NSTError("the options must be an object")
    fields = options_of("transfer")
    options = {}
    for name, value in given.items():
        if name not in OFFERED:
            raise NSTError(f"there is no option {str(name)[:40]} on this page")
        if name in WORDS and value is not None and value not in WORDS[name]:
            raise OptionError(name, f"must be one of {', '.join(WORDS[name])}, not {str(value)[:40]!r}")
        if value is not None:  # else as usual
            options[name] = checked_option(fields[name], value)
    if not isinstance(size := options.get("size", 1), int) or size > MOST_SIZE:
        raise OptionError("size", f"must be a number up to {MOST_SIZE}, not {size}")
    return options


def blended(order: Mapping[str, Any]) -> dict[str, Any]:
    """The option for the shares of several styles."""
    return {"style_blend": _blend(order["styles"])} if len(order["styles"]) > 1 else {}


def _blend(styles: list[dict[str, Any]]) -> str:
    return ",".join(f"{style['share']:g}" for style in styles)


def arguments(order: Mapping[str, Any], store: Store, folder: Path) -> tuple[Path, list[Path], dict[str, list[Path]]]:
    """The files of an order: content, styles, and masks, which are white where only other styles have one."""
    content = store.picture(order["content"])
    styles = [store.picture(style["picture"]) for style in order["styles"]]
    masks: dict[str, list[Path]] = {}
    for kind, pictures in (("where", [content] * len(styles)), ("part", styles)):
        ids = [style[kind] for style in order["styles"]]
        if any(ids):
            pairs = zip(ids, pictures, strict=True)
            masks[kind] = [store.picture(i)["path"] if i else _white(picture, folder) for i, picture in pairs]
    return content["path"], [style["path"] for style in styles], masks


def _white(picture: Mapping[str, Any], folder: Path) -> Path:
    path = folder / f"everywhere-{picture['id'][:8]}.png"
    if not path.exists():
        Image.new("L", (picture["width"], picture["height"]), 255).save(path)
    return path


def words(run: Mapping[str, Any], store: Store, folder: Path) -> list[str]:
    """The command that makes the run, as a person could type it."""
    order = run["order"]
    content, styles, masks = arguments(order, store, folder)
    found = ["transfer", str(content), *map(str, styles), "-o", str(folder / "result.png"), "--bits=16"]
    for kind, flag in (("where", "--content-mask"), ("part", "--style-mask")):
        found += [flag, *map(str, masks[kind])] if kind in masks else []
    found += [f"--style-blend={_blend(order['styles'])}"] if len(styles) > 1 else []
    for name, value in {**order["options"], **run.get("extra", {})}.items():
        flag = f"--{name.replace('_', '-')}"
        word = options_of("transfer")[name].metadata["word"]
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is not None or word:
            found.append(f"{flag}={word if value is None else value}")
    if (folder / "start.png").exists():
        found.append(f"--init={folder / 'start.png'}")
    return found


def going_on(order: Mapping[str, Any], reached: int, full: int, changed: bool) -> dict[str, Any]:
    """More options for a run that starts from a picture made at the size `reached`, up to its own full size.

    It need not begin at the foot of the ladder again: the scales below that size are done, and so is that size itself
    unless anything else has changed.
    """
    sides = {reached} if changed and reached < full else set()
    side = full / math.sqrt(2)
    while side > reached * 1.01:
        sides.add(round(side))
        side /= math.sqrt(2)
    extra: dict[str, Any] = {"scales": ",".join(map(str, sorted(sides))) or "off"}
    options = order["options"]
    if "iterations" not in options and not options.get("quick"):
        settings = settings_of("transfer", options)
        extra["iterations"] = extra["later_iterations"] = max(1, math.ceil(LATER * settings.iterations))
    return extra


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two orders would make different pictures of one size."""
    sizes = ("size", "enlarge")
    apart = [{name: value for name, value in order["options"].items() if name not in sizes} for order in (one, other)]
    return apart[0] != apart[1] or one["styles"] != other["styles"]


def size_of(order: Mapping[str, Any]) -> int:
    """The longer side that the order asks for."""
    return settings_of("transfer", order["options"]).size or MOST_SIZE


def input_pictures(folder: Path, content: Any, styles: list[Any]) -> list[str]:
    """Small copies of a run's inputs for the page, beside the feed; those that can't be read are left out."""
    names = []
    for name, source in (("content", content), *((f"style{k}", style) for k, style in enumerate(styles, 1))):
        if source in (None, STANDARD_INPUT):  # which can be read only once
            continue
        try:
            data = packed(load_picture(source, 1024).rgb, side=1024)
        except NSTError:
            continue  # the run itself will say why
        (folder / f"{name}.jpg").write_bytes(data)
        names.append(name)
    return names
