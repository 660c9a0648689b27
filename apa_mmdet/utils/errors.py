"""Errors with codes, and exceptions in one line."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNKNOWN = 'unknown'  # code of an error that others raised again from its text alone


class CodedError(ValueError):
    """An error that a caller can act on: ``code`` is stable, the message is for people.

    An error of a worker process of a data loader arrives with its code and message: torch raises it again from its
    whole traceback as the only argument. So subclasses keep this constructor; what else they hold are attributes with
    defaults, which a class method sets.

    Args:
        code: of the error.
        message: what is wrong, where, and what to do.

    Example:
        >>> error = CodedError('duplicate-id', 'images[3]: id 7 is used twice')
        >>> error.code, str(error)
        ('duplicate-id', 'images[3]: id 7 is used twice')
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        if message is None:
            code, message = self._read(code)
        super().__init__(code, message)  # both, so that pickle restores it

    @property
    def code(self) -> str:
        return self.args[0]

    def __str__(self) -> str:
        code, message = self.args
        data = sys.modules.get('torch.utils.data')  # tables of names need no torch
        in_worker = data is not None and data.get_worker_info() is not None
        return f'{message}  [{code}]' if in_worker else message

    def _read(self, traceback: str) -> tuple[str, str]:
        """The code and the message in the text of a traceback."""
        _, name, text = traceback.rpartition(f'\n{type(self).__module__}.{type(self).__qualname__}: ')
        if not name:
            raise TypeError(f'{type(self).__name__} needs a code and a message')
        found = re.fullmatch(r'(.*)  \[([\w-]+)\]', text.strip(), re.DOTALL)
        return (found[2], found[1]) if found else (UNKNOWN, text.strip())


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
def in_one_line(
    code: str, what: str, keep: type[Exception] | tuple[type[Exception], ...] = CodedError, hint: str = ''
) -> Iterator[None]:
    """Turns an error of code that may raise any class into a CodedError of one line; one of class ``keep`` passes."""
    try:
        yield
    except keep:
        raise
    except Exception as error:
        raise CodedError(code, f'{what}: {one_line(error)}{hint}') from error
