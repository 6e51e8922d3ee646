"""A mistake of the person at the keyboard, told in one sentence: what was expected, what was found, what to do."""


class NSTError(Exception):
    """The user's mistake. The command line prints it as one line and exits with 2; a traceback would be our bug."""
