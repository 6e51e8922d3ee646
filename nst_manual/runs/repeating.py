"""Before a recipe is repeated: where its inputs are now, and how much work it asks for.

A recipe names files without their folders, and may come from anybody.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..engines.cpu.threads import available_threads
from ..errors import NSTError
from ..pictures.budget import shown
from ..pictures.files import file_sha256
from ..pictures.reading import STANDARD_INPUT, picture_size
from .machine import resident
from .memory import COSTS, PICTURE, PROCESS, Forecast
from .recipe import Recipe, Source
from .scales import ladder
from .style_files import is_style_file

SECONDS_PER_PIXEL = 2.5e-6  # of an iteration with the paper's layers, on two cores; the plain engine takes longer
MOST_SECONDS, MOST_BYTES = 3600, 4_000_000_000  # of a run that is begun without being asked for twice


@dataclass
class Search:
    """Looks for inputs by name in some folders, and takes the one with the right checksum if several have the name."""

    folders: Sequence[Path]
    changed: list[str] = field(default_factory=list)  # sentences
    missing: list[str] = field(default_factory=list)  # names
    known: dict[Path, str] = field(default_factory=dict)  # checksums

    def located(self, recipe: Recipe) -> Recipe:
        """The recipe with the paths of its inputs; those that are not found keep their names."""
        weights = recipe.settings.weights
        if recipe.weights.get("file"):
            sha256 = recipe.weights.get("sha256")
            weights = next((str(p) for p in self._candidates(weights) if self._sha256(p) == sha256), weights)
        return recipe.with_sources(self._found, weights)

    def _found(self, source: Source) -> Source:
        if source.name in (None, STANDARD_INPUT):
            return source
        candidates = list(self._candidates(str(source.name)))
        if not candidates:
            self.missing.append(str(source.name))
            return source
        same = [path for path in candidates if source.sha256 in (None, self._sha256(path))]
        if not same:
            self.changed.append(f"{candidates[0]} is not the file that was used then")
        return dataclasses.replace(source, name=str((same or candidates)[0]))

    def _candidates(self, name: str) -> Iterator[Path]:
        """Files of that name. Older recipes give whole paths."""
        path = Path(name)
        for place in dict.fromkeys([path, *(folder / path.name for folder in self.folders)]):
            if os.path.isfile(place):
                yield place

    def _sha256(self, path: Path) -> str:
        real = path.resolve()  # a recipe may name one large file in many ways
        if real not in self.known:
            self.known[real] = file_sha256(path)
        return self.known[real]


class Work(NamedTuple):
    """What a run will take, roughly: the result's size, the inputs, the iterations, bytes, and seconds on two cores."""

    width: int
    height: int
    pictures: int
    iterations: int
    bytes: int
    seconds: float

    @classmethod
    def of(cls, recipe: Recipe) -> "Work":
        """From the inputs' headers and the settings. Raises NSTError for a picture that can't be read."""
        settings = recipe.settings
        asked = settings.style_size or settings.size
        scaled = settings.style_scales(len(recipe.styles))
        styles = [
            _resized(_size(source), asked and scale * asked, settings.enlarge)
            for source, scale in zip(recipe.styles, scaled, strict=True)
        ]
        if recipe.content is None:
            height, width = settings.height or styles[0][0], settings.width or styles[0][1]
        else:
            height, width = _resized(_size(recipe.content), settings.size, settings.enlarge)
        scales = ladder(settings, height, width)
        cost = COSTS.get((settings.engine, settings.precision)) or COSTS["cpu", "float32"]
        held = sum(h * w for h, w in (*styles, (height, width))) * PICTURE
        now, _ = resident() or (PROCESS, PROCESS)
        regions = bool(recipe.content_masks)
        forecast = Forecast(
            settings,
            cost,
            (height, width),
            tuple(styles),
            tuple(scaled),
            regions,
            threads=available_threads(),
            now=now + held,
            peak=0,
        )
        walked = sum(scale.height * scale.width * scale.iterations for scale in scales) + sum(h * w for h, w in styles)
        iterations = sum(scale.iterations for scale in scales)
        return cls(width, height, len(recipe.sources()), iterations, forecast.total, walked * SECONDS_PER_PIXEL)

    def __str__(self) -> str:
        hours, minutes = divmod(round(self.seconds / 60), 60)
        time = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"
        if hours > 9999:
            time = "more than a year"
        iterations = f"{self.iterations:,} iteration{'s' * (self.iterations != 1)}"
        return (
            f"{self.width}×{self.height} pixels from {self.pictures} files, {iterations}: about "
            f"{shown(min(self.bytes, 10**15))} of memory, and {time} on two CPU cores with the paper's layers"
        )

    def check(self) -> None:
        """Refuse what nobody would want unasked."""
        if self.seconds > MOST_SECONDS or self.bytes > MOST_BYTES:
            raise NSTError(
                f"it asks for {self}; that is more than {MOST_SECONDS // 3600} h or {shown(MOST_BYTES)}: add --yes if "
                "you want it"
            )


def _size(source: Source) -> tuple[int, int]:
    """(height, width) of an input; that of a style file, which costs next to nothing, is one pixel."""
    if source.name in (None, STANDARD_INPUT) or is_style_file(source.name):
        return 1, 1
    return picture_size(source.name)


def _resized(size: tuple[int, int], side: float | None, enlarge: bool) -> tuple[int, int]:
    share = side / max(size) if side else 1.0
    if share > 1 and not enlarge:
        share = 1.0
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
