"""The result of a validation: findings, and a table of the data sets."""

from collections.abc import Sequence
from typing import NamedTuple

from terminaltables import AsciiTable

from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.finding_codes import ERROR
from apa_mmdet.utils.findings import Finding, Findings, ValidationError
from apa_mmdet.utils.missing_data_hints import explain

from .annotations import Summary

COLUMNS = ('data set', 'images', 'instances', 'crowds', 'classes', 'without instance', 'rare (1 to 10 images)')


class CheckedDataset(NamedTuple):
    """A validated data set.

    ``classes`` are the config's; ``content`` is None if it could not be read; ``paths`` are those of checked images.
    """

    name: str
    splits: list[str]
    ann_file: str
    classes: tuple[str, ...]
    content: Summary | None = None
    paths: Sequence[str] = ()

    def row(self) -> tuple:
        c = self.content
        empty = list(c.counts.values()).count(0)
        return self.name, c.total_images, c.instances, c.crowds, len(c.counts), empty, c.rare


class Report(NamedTuple):
    """Findings, and a row of ``columns`` per data set; ``str`` renders both for a person."""

    findings: list[Finding]
    rows: list[tuple]
    columns: tuple[str, ...] = COLUMNS

    @property
    def errors(self) -> int:
        return sum(finding.severity == ERROR for finding in self.findings)

    def __str__(self) -> str:
        lines = [AsciiTable([self.columns, *self.rows]).table] if self.rows else []
        lines += map(str, sorted(self.findings, key=lambda finding: finding.severity != ERROR))
        warnings = len(self.findings) - self.errors
        verdict = 'training can start'
        if self.errors:
            verdict = 'fix the errors before training'
        elif not self.rows:
            verdict = 'nothing was checked'
        elif any(finding.code == 'not-checked' for finding in self.findings):
            verdict = 'training can start, as far as checked'
        return '\n'.join([*lines, f'{_number(self.errors, "error")}, {_number(warnings, "warning")}: {verdict}'])


def _number(count: int, noun: str) -> str:
    return f'{count or "no"} {noun}{"s" * (count != 1)}'


def report_error(error: Exception, findings: Findings, ids: Sequence[str] = ()) -> None:
    """Report why a data set cannot be built or a file, whose path is in ``ids``, not be read."""
    if isinstance(error, ValidationError):
        findings.add(error.code, error.ids or ids, str(error))
    elif isinstance(error, FileNotFoundError):
        findings.add('missing-file', [error.filename], explain(error))
    elif isinstance(error, OSError) and ids:
        findings.add('unreadable-file', ids, path=ids[0], reason=error.strerror or one_line(error))
    else:
        findings.add('invalid-dataset', reason=one_line(error))
