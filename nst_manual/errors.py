"""A mistake of the person at the keyboard, told in one sentence: what was expected, what was found, what to do."""

import unicodedata

HARMLESS = "\u200c\u200d"  # they join letters and emoji, and only that


class NSTError(Exception):
    """The user's mistake. The command line prints it as one line and exits with 2; a traceback would be our bug."""


class Failure(NSTError):
    """Nobody's mistake: something that the run needs is gone. The command line exits with 1."""


def plain(text: str) -> str:
    """Text from outside with control characters and direction marks escaped, so that it cannot command a terminal."""
    return "".join(letter if _shows(letter) else repr(letter)[1:-1] for letter in text)


def _shows(letter: str) -> bool:
    return letter.isprintable() or letter in HARMLESS or unicodedata.category(letter) == "Zs"
