"""Compares the classes of a config with the categories of its files and with the model's heads and losses."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmengine.config import Config

from apa_mmdet.datasets.annotations.class_frequencies import class_frequencies
from apa_mmdet.datasets.annotations.class_names import SPELLINGS, report_lacking
from apa_mmdet.datasets.class_statistics import read_class_statistics
from apa_mmdet.utils.config import class_counts, model_parts
from apa_mmdet.utils.findings import Findings, ValidationError, show

from .report import CheckedDataset


def compare_classes(
    classes: Sequence[str], names: Sequence[str], by_name: bool, findings: Findings, label_file: Path | None = None
) -> None:
    """Check that the config's classes and the names of the file's categories are the same, in the same order.

    ``by_name``: the data set and its metrics find categories by name; otherwise one numbers all of the file.
    ``label_file``: the file that the classes come from, if they do.
    """
    classes, names = [SPELLINGS.get(c, c) for c in classes], [SPELLINGS.get(n, n) for n in names]
    known, wanted = set(names), set(classes)
    shared, common = [c for c in classes if c in known], [n for n in names if n in wanted]
    give = 'give metainfo=dict(classes=…)'
    if label_file:
        give = f'{label_file} has {len(classes)} names, but the file {len(names)} categories: download the list of it'
    doubles = [[name for name, count in Counter(them).items() if count > 1] for them in (classes, names)]
    if shared == common:  # then labels are right all the same
        findings.report('shared-category-name', doubles[1], len(names))
    else:
        findings.report('duplicate-class', doubles[0], len(classes))
        findings.report('duplicate-category', doubles[1], len(names))
    lacking, extra = [c for c in classes if c not in known], [n for n in names if n not in wanted]
    first = ', '.join(map(show, names[:3])) + ', …' * (len(names) > 3)
    findings.report('missing-category', lacking, len(classes), names=first, give=give)
    findings.report('extra-category' if by_name else 'unnamed-category', extra, len(names), give=give)
    if shared != common and not lacking and not any(doubles):
        c, n = next((c, n) for c, n in zip(shared, common) if c != n)
        findings.add('class-order', [c, n], ours=show(c), theirs=show(n))


def check_training_classes(checked: list[CheckedDataset], findings: Findings) -> None:
    """Report classes without an instance to learn from, in all training data sets together."""
    training, total = [c for c in checked if 'train' in c.splits], Counter()
    if not all(c.content for c in training):
        return
    for c in training:
        total.update(c.content.counts)  # keeps the zeros
    if total and not sum(total.values()):
        return findings.add('no-training-instance')
    findings.report('class-without-instance', [name for name, count in total.items() if not count], len(total))


def check_model(cfg: Config, checked: list[CheckedDataset], findings: Findings) -> None:
    """Compare the numbers of classes: of the data sets with each other, and with the model's heads and losses."""
    trained = any('train' in c.splits for c in checked)
    names: dict[int, str] = {}
    for c in checked:
        names.setdefault(len(c.classes), c.name)
    if len(names) > 1:
        counts = ', '.join(f'{name} has {number}' for number, name in names.items())
        findings.add('class-count-mismatch', list(names.values()), counts=counts)
    if not checked:
        return
    number, name = next(iter(names.items()))
    for setting, count, is_used in class_counts(cfg.get('model')):
        if is_used and count != number:
            values = dict(setting=setting, count=count, dataset=name, number=number)
            findings.add('num-classes-mismatch', [setting], **values)
    for path, part in model_parts(cfg.get('model')):
        file, setting = part.get('class_frequency'), f'{path}.class_frequency'
        if trained and isinstance(file, str):  # only losses read it
            classes = part.get('classes') or next(c.classes for c in checked if 'train' in c.splits)
            _check_frequencies(setting, file, classes, part.get('num_classes', number), checked, findings)


def _check_frequencies(
    setting: str, file: str, classes: Sequence[str], number: int, checked: list[CheckedDataset], findings: Findings
) -> None:
    """Check the frequencies of ``classes`` that a loss of ``number`` classes reads from ``file``."""
    read = [c for c in checked if os.path.realpath(c.ann_file) == os.path.realpath(file)]
    if read and not (read[0].content and read[0].content.categories):
        return  # reported already
    try:
        if read:
            return report_lacking(classes, [c['name'] for c in read[0].content.categories], file, setting, findings)
        values, names = read_class_statistics(Path(file).expanduser(), partial(class_frequencies, origin=file))
    except (OSError, ValidationError) as error:
        return findings.add('invalid-class-frequency', [file], setting=setting, reason=error)
    if names is not None:
        report_lacking(classes, names, file, setting, findings)
    elif len(values) != number:
        findings.add('frequency-count-mismatch', [file], setting=setting, path=file, count=len(values), number=number)
