"""All pairs of a batch: their pictures, each loaded once, and what becomes of each."""

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ..engines import device_errors, what_failed
from ..errors import NSTError
from ..optimise import Record
from ..options import shown_duration
from ..settings import Run, Settings
from .inputs import load_content, load_style
from .memory import decoding_limit
from .pairs import Pair
from .results import Result
from .watch import Flag

log = logging.getLogger(__name__)

STYLES_KEPT = 16  # pictures in memory


class Batch:
    """All pairs of a batch: their pictures as loaded, and which are to be made."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        contents: Sequence[Any],
        styles: Sequence[Any],
        there: Collection[int],
        skip_existing: bool,
        callback: Callable[[Pair, Record], object] | None,
        cancel: Flag | None,
    ) -> None:
        self.settings, self.run, self.count = settings, run, len(styles)
        self.there, self.skip_existing = there, skip_existing
        self.callback, self.cancel = callback, cancel

        def loader(
            load: Callable[[Settings, Any, float | None], Any], sources: Sequence[Any], most: int
        ) -> Callable[[int], Any]:
            @lru_cache(most)
            def loaded(number: int) -> Any:
                """The picture, or the error of a broken one, so that it is read only once."""
                try:
                    return load(settings, sources[number], decoding_limit(run))
                except NSTError as error:
                    return error

            return loaded

        self.content, self.style = loader(load_content, contents, 1), loader(load_style, styles, STYLES_KEPT)

    def loaded(self, pair: Pair) -> tuple[Any, Any]:
        """Content and style of a pair; raises the error of a broken one."""
        row, column = self.place(pair)
        given = self.content(row), self.style(column)
        for picture in given:
            if isinstance(picture, NSTError):
                raise picture
        return given

    def place(self, pair: Pair) -> tuple[int, int]:
        """The numbers of its content and of its style."""
        return divmod(pair.number - 1, self.count)

    def own_run(self, pair: Pair) -> Run:
        return replace(self.run, output=pair.path, overwrite=self.run.overwrite or pair.number in self.there)

    def outcome(self, pair: Pair, result: Result | NSTError) -> Pair:
        """The pair with its result, which is none where another batch has just made it."""
        made = self.skip_existing and pair.number not in self.there and pair.path and os.path.exists(pair.path)
        return replace(pair, result=None if made and isinstance(result, NSTError) else result)

    def begin(self, pair: Pair, left: float | None) -> None:
        rest = "" if left is None else f"; about {shown_duration(left)} left for all"
        log.info("%d of %d: %s%s", pair.number, pair.count, pair, rest)

    @property
    def cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


def attempted(make: Callable[[], Result]) -> Result | NSTError:
    """The picture, or why there is none."""
    try:
        return make()
    except NSTError as error:
        return error.with_traceback(None)  # which holds the pictures and the network
    except MemoryError as error:
        return NSTError(f"out of memory ({error}): choose a smaller --size")
    except device_errors() as error:
        return NSTError(what_failed(error))
