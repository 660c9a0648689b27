"""Validates the annotations of a config before MMDetection reads them.

MMDetection takes them as they are: a polygon with NaN ends the process silently, a missing field ends training with a
traceback after hours, and a box of negative width makes a wrong AP.
"""

from collections.abc import Sequence

from mmengine.logging import MMLogger

from apa_mmdet.datasets.validation.report import Report
from apa_mmdet.datasets.validation.validate_config import SPLITS, validate_config
from apa_mmdet.utils.config import load_config
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.finding_codes import ERROR
from apa_mmdet.utils.findings import Finding

from .launch_checks.launch import Launch
from .launch_checks.validate_launch import check_launch


class BadAnnotations(CodedError):
    """Annotations that cannot be trained on or evaluated with; code ``findings``: the errors are ``findings``."""

    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> 'BadAnnotations':
        """The error about these findings: a line each, or only that of a missing file."""
        missing = [finding.message for finding in findings if finding.code == 'missing-file']
        advice = 'fix the errors; to start anyway: --cfg-options check_annotations=False'
        error = cls('findings', missing[0] if missing else '\n'.join([*map(str, findings), advice]))
        error.findings = tuple(findings)
        return error


def validate_annotations(launch: Launch) -> None:
    """Validate the annotations that a start reads and log warnings, only in the first of several processes.

    Images are not checked; ``tools/check_dataset.py`` does that. With ``check_annotations=False`` in the config nothing
    is. Of a split whose predictions are only written (``format_only``), images and categories are enough.

    Raises:
        BadAnnotations: if something is wrong in them, or if they do not fit the config.
    """
    splits = [split for split in launch.splits if launch.cfg.get(f'{split}_dataloader')]
    if not launch.is_first_process or not splits or not launch.cfg.get('check_annotations', True):
        return
    findings = validate_config(launch.cfg, splits, images=None).findings
    errors = [finding for finding in findings if finding.severity == ERROR]
    if errors:
        raise BadAnnotations.of(errors)
    for finding in findings:
        MMLogger.get_current_instance().warning(str(finding))


def check_config(
    path: str, options: dict | None = None, splits: Sequence[str] = SPLITS, images: bool = True, workers: int = 0
) -> Report:
    """Returns everything that is found wrong with a config before a training or, without ``train``, a test.

    Args:
        path: of the config.
        options: as of ``--cfg-options``.
        splits, images, workers: as of :func:`~apa_mmdet.datasets.validation.validate_config.validate_config`.

    Raises:
        BadConfig: if the config cannot be read.
    """
    cfg = load_config(path, options)
    launch = Launch('train.py' if 'train' in splits else 'test.py', cfg, options or {})
    report = validate_config(cfg, splits, images, workers)
    return report._replace(findings=[*check_launch(launch), *report.findings])
