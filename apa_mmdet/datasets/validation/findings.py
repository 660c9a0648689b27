"""How the checks of a data set say what they found."""

from collections.abc import Sequence
from typing import Any, NamedTuple

ERROR, WARNING = 'error', 'warning'
LONG = 300  # characters of a name or path that are shown


class Finding(NamedTuple):
    """One thing that is wrong (``error``) or odd (``warning``) in a data set, or in the model (``dataset='model'``)."""

    severity: str
    dataset: str
    message: str

    def __str__(self) -> str:
        return f'{self.severity:7}  {self.dataset}: {self.message}'


class Notes:
    """The findings of one data set."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.findings: list[Finding] = []

    def error(self, message: str) -> None:
        self.findings.append(Finding(ERROR, self.dataset, message))

    def warning(self, message: str) -> None:
        self.findings.append(Finding(WARNING, self.dataset, message))

    def some(self, severity: str, what: str, which: Sequence, total: int, then: str) -> None:
        """A finding about ``which`` (ids, names) of ``total``; none where ``which`` is empty.

        Example:
            >>> notes = Notes('train')
            >>> notes.some('warning', 'images without annotations', [4, 7, 8, 9], 20, 'they are background')
            >>> notes.findings[0].message
            'images without annotations: 4 of 20, e.g. 4, 7, 8; they are background'
        """
        if len(which):
            message = f'{what}: {len(which)} of {total}, e.g. {", ".join(map(show, which[:3]))}; {then}'
            self.findings.append(Finding(severity, self.dataset, message))


def show(value: Any) -> str:
    """A name or id as it is, with quotes where it would be hard to see or to print, and cut where it is very long.

    Example:
        >>> show('date'), show(7), show(' date'), show('')
        ('date', '7', "' date'", "''")
    """
    text = str(value)
    text = f'{text[:LONG]}…' if len(text) > LONG else text
    return text if text and text == text.strip() and text.isprintable() else repr(text)
