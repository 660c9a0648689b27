"""One-line descriptions of exceptions."""


def one_line(error: Exception) -> str:
    """An error of somebody else's code in one line."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def brief(error: Exception, most: int | None = 200) -> str:
    """What it says, in a line, of at most so many characters."""
    return ' '.join(str(error).split())[:most]


def _words(error: Exception) -> str:
    return f'{error.args[0]!r} is missing' if isinstance(error, KeyError) else brief(error, None)
