"""What the command-line tools share: the format of help, types of arguments, ``--cfg-options``, errors in one line."""

import sys
import warnings
from argparse import (
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from .errors import CodedError
from .missing_data_hints import explain


class Parser(ArgumentParser):
    """A parser whose help shows ``doc`` as it is and all defaults; ``cfg_options`` adds MMDetection's option."""

    def __init__(self, doc: str, cfg_options: bool = False) -> None:
        super().__init__(description=doc, formatter_class=_HelpFormatter)
        if cfg_options:
            from mmengine.config import DictAction  # the rest needs no MMEngine

            text = 'override settings of the config'
            self.add_argument('--cfg-options', nargs='+', type=key_value, action=DictAction, help=text)


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    def _get_help_string(self, action: Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def at_least(low: int, most: float = float('inf')) -> Callable[[str], int]:
    """The type of an argument that is a whole number of ``low`` or more, up to ``most``."""

    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= most:
            limits = f'of {low} or more' if most == float('inf') else f'from {low} to {most}'
            raise ArgumentTypeError(f'{text!r} is not a whole number {limits}')
        return int(text)

    return number


def positive(text: str) -> float:
    """The type of an argument that is a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float('inf'):
        raise ArgumentTypeError(f'{text!r} is not a number above 0')
    return number


def share(text: str) -> float:
    """The type of an argument that is a number between 0 and 1, without these."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise ArgumentTypeError(f'{text!r} is not a share between 0 and 1')
    return number


def key_value(text: str) -> str:
    """The type of a config setting; MMEngine's ``DictAction`` does not report what is wrong with one."""
    key, _, value = text.partition('=')
    if not key or key == text:
        raise ArgumentTypeError(f'{text!r} is not KEY=VALUE')
    if value.count('(') != value.count(')') or value.count('[') != value.count(']'):
        raise ArgumentTypeError(f'{text!r} has brackets that do not match')
    return text


def hide_repeated_warnings() -> None:
    """Hides a warning about ``pkg_resources``, which MMEngine imports again for each base ``…::…`` of a config."""
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')


def run(main: Callable[[], str | int | None]) -> None:
    """Runs a tool's ``main`` and ends the process: with status 0, or with the error of its config or files in one line.

    A refusal is an error with a code; any other is a fault of the program, and keeps its traceback. ``main`` may return
    such a line, or a status, itself.
    """
    name = Path(sys.argv[0]).stem
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # names in annotations may be unprintable
    hide_repeated_warnings()
    try:
        error = main()
    except FileNotFoundError as missing:
        error = explain(missing)
    except IsADirectoryError as wrong:
        error = f'{wrong.filename} is a folder; name a file'
    except (OSError, CodedError, MemoryError) as wrong:
        error = str(wrong)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(f'{name}: {error}' if isinstance(error, str) else error)
