"""Errors with codes, and exceptions in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


class CodedError(ValueError):
    """An error that a caller can act on: ``code`` is stable, the message is for people.

    Example:
        >>> error = CodedError('duplicate-id', 'images[3]: id 7 is used twice')
        >>> error.code, str(error)
        ('duplicate-id', 'images[3]: id 7 is used twice')
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both, so that pickle restores it

    @property
    def code(self) -> str:
        return self.args[0]

    def __str__(self) -> str:
        return self.args[1]


def one_line(error: BaseException, limit: int = 200) -> str:
    """The type and the first line of the text of an exception, printable, of at most ``limit`` characters.

    Example:
        >>> one_line(ValueError('cannot read a.json: it is empty\\nsee the log'))
        'ValueError: cannot read a.json: it is empty'
        >>> one_line(KeyError('id')), one_line(RuntimeError())
        ("KeyError: 'id'", 'RuntimeError')
    """
    lines = str(error).strip().splitlines()
    text = f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:limit]


@contextmanager
def in_one_line(what: str, keep: type[Exception], hint: str = '') -> Iterator[None]:
    """Turns an error of code that may raise any class into a ValueError of one line; one of class ``keep`` passes."""
    try:
        yield
    except keep:
        raise
    except Exception as error:
        raise ValueError(f'{what}: {one_line(error)}{hint}') from error
