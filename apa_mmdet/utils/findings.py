"""Findings: what a check reports, each with a code, or raises in strict mode."""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from .errors import CodedError
from .finding_codes import CODES, ERROR

MAX_SHOWN_CHARS = 300  # of a name or path
EXAMPLES = 3  # in a message
Wrong = Callable[[dict], bool] | Iterable[bool]
Detail = Callable[[dict], str]


class Finding(NamedTuple):
    """A fault (``error``) or an oddity (``warning``) of a data set, or of the model (``dataset='model'``).

    ``code`` is one of :data:`~.finding_codes.CODES`; ``ids`` are the records, paths or names that the message is about.
    """

    severity: str
    code: str
    dataset: str
    message: str
    ids: tuple = ()

    def __str__(self) -> str:
        return f'{self.severity:7}  {self.dataset}: {self.message}  [{self.code}]'


class ValidationError(CodedError):
    """A file, a record or a setting that cannot be used: a line, its ``code`` and the ``ids`` of the records."""

    ids: tuple = ()

    @classmethod
    def of(cls, code: str, ids: Sequence = (), message: str | None = None, **values: Any) -> 'ValidationError':
        """The error of a code: ``message``, or the text of the code with these values.

        Example:
            >>> raise ValidationError.of('empty-file', path='a.json')
            Traceback (most recent call last):
            apa_mmdet.utils.findings.ValidationError: a.json is empty; download it again
        """
        error = cls(code, message or '; '.join(CODES[code][1:]).format(**values))
        error.ids = tuple(ids)
        return error


class Findings(list[Finding]):
    """The findings about one data set.

    Args:
        dataset: its name, with which each finding begins.
        strict: raise the first error as :class:`ValidationError` instead of listing it.
    """

    def __init__(self, dataset: str, strict: bool = False) -> None:
        super().__init__()
        self.dataset, self.strict = dataset, strict

    def add(self, code: str, ids: Sequence = (), message: str | None = None, **values: Any) -> None:
        """Append a finding: ``message``, or the text of the code with these values."""
        error = ValidationError.of(code, ids, message, **values)
        if self.strict and CODES[code].severity == ERROR:
            raise ValidationError.of(code, ids, f'{self.dataset}: {error}')
        self.append(Finding(CODES[code].severity, code, self.dataset, str(error), error.ids))

    def report(self, code: str, ids: Sequence, total: int, details: Sequence[str] = (), **values: Any) -> None:
        """Append a finding about ``ids`` of ``total`` records; nothing where ``ids`` is empty.

        ``details`` say more about each of the first.

        Example:
            >>> findings = Findings('train')
            >>> findings.report('duplicate-id', [4, 7, 8, 9], 20, records='images')
            >>> print(findings[0])
            error    train: ids of images used more than once: 4 of 20, e.g. 4, 7, 8; renumber them  [duplicate-id]
        """
        if len(ids):
            examples = [show(i) for i in ids[:EXAMPLES]]
            for i, detail in enumerate(details[:EXAMPLES]):
                examples[i] += f' ({detail})' if detail else ''
            fault, advice = (text.format(**values) for text in CODES[code][1:])
            self.add(code, ids, f'{fault}: {len(ids)} of {total}, e.g. {", ".join(examples)}; {advice}')

    def check(
        self, code: str, records: list[dict], wrong: Wrong, detail: Detail | None = None, /, name='id', **values: Any
    ) -> None:
        """Report the ``records`` that are ``wrong``, by their ``name``; ``detail`` says more about one."""
        faulty = list(compress(records, map(wrong, records) if callable(wrong) else wrong))
        details = map(detail, faulty[:EXAMPLES]) if detail else ()
        self.report(code, [record[name] for record in faulty], len(records), list(details), **values)


def show(value: Any) -> str:
    """A name or id as it is; quoted where it would be hard to see or to print, cut where it is very long.

    Example:
        >>> show('date'), show(7), show(' date'), show('')
        ('date', '7', "' date'", "''")
    """
    text = str(value)
    text = text[:MAX_SHOWN_CHARS] + '…' * (len(text) > MAX_SHOWN_CHARS)
    return text if text and text == text.strip() and text.isprintable() else repr(text)


def brief(value: Any) -> str:
    """The value as Python writes it, at most 50 characters."""
    return f'{value!r:.50}'
