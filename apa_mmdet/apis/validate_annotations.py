"""Annotations are looked through before MMDetection reads them.

It takes them as they come: a polygon that is no number ends the process without a word, a missing field ends training
with a traceback after hours, and a box of negative width makes a wrong AP.
"""

import os
from collections.abc import Sequence

from mmengine.config import Config

from apa_mmdet.datasets.validation.findings import ERROR
from apa_mmdet.datasets.validation.validate_config import check_config
from apa_mmdet.utils.config import evaluators

SPLITS = {'train.py': ('train', 'val'), 'test.py': ('test',)}  # what MMDetection's tools read
RANKS = 'RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'  # of torchrun, slurm and mpi


class BadAnnotations(ValueError):
    """Annotations that cannot be trained on or evaluated with; one line for each kind of fault."""


def look_at_annotations(cfg: Config, splits: Sequence[str]) -> None:
    """Print what is odd in the annotations of a config, in the first of several processes alone.

    Images are not looked at; ``tools/check_dataset.py`` does that. Nothing is with ``check_annotations=False`` in the
    config, and nothing in a split whose predictions are only to be written, as of pictures without annotations.

    Args:
        cfg: the config.
        splits: which of ``train``, ``val``, ``test``.

    Raises:
        BadAnnotations: if something is wrong in them, or if they do not fit the config.
    """
    rank = next((os.environ[name] for name in RANKS if name in os.environ), '0')
    splits = [split for split in splits if cfg.get(f'{split}_dataloader') and not _only_written(cfg, split)]
    if rank != '0' or not splits or not cfg.get('check_annotations', True):
        return
    report = check_config(cfg, splits, images=None)
    wrong = [f for f in report.findings if f.severity == ERROR]
    missing = [f.message for f in wrong if f.message.startswith('missing: ')]
    if missing:
        raise BadAnnotations(missing[0])
    if wrong:
        advice = 'mend them; to go on all the same: --cfg-options check_annotations=False'
        raise BadAnnotations('\n'.join([*map(str, wrong), advice]))
    for finding in report.findings:
        print(finding, flush=True)  # there is no log file yet


def _only_written(cfg: Config, split: str) -> bool:
    found = [evaluator.get('format_only', False) for _, evaluator in evaluators(cfg, [split])]
    return bool(found) and all(found)
