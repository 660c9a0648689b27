"""Checks whether the settings of a start fit together, before data or models are built."""

import os
from collections.abc import Callable, Sequence

from mmengine.logging import MMLogger

from apa_mmdet.datasets.validation.codes import ERROR
from apa_mmdet.datasets.validation.findings import Finding, Findings

from .dtypes import check_dtypes
from .evaluation import check_palette, check_several_datasets, check_tta
from .launch import Launch
from .losses import check_losses
from .metrics import check_metrics
from .options import check_options
from .padding import check_padding
from .registered_types import check_registered_types
from .weights import check_checkpoints

RANKS = 'RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'  # of torchrun, slurm and mpi
CHECKS: tuple[Callable[[Launch, Findings], None], ...] = (  # each adds to the findings
    check_options,
    check_registered_types,
    check_losses,
    check_metrics,
    check_checkpoints,
    check_several_datasets,
    check_tta,
    check_palette,
    check_padding,
    check_dtypes,
)


class InvalidLaunch(ValueError):
    """A start that would fail or mislead: ``findings`` are the errors, a line each."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__('\n'.join(map(str, findings)))


def check_launch(launch: Launch) -> Findings:
    """Returns what the checks find, without raising or logging anything."""
    findings = Findings('config')
    for check in CHECKS:
        check(launch, findings)
    return findings


def validate_launch(launch: Launch) -> None:
    """Raises the errors and logs the warnings of the checks; of several processes only the first says anything.

    Raises:
        InvalidLaunch: if there is an error.
        SystemExit: if there is, in any but the first of several processes, which would wait for the first in vain.
    """
    findings = check_launch(launch)
    errors = [finding for finding in findings if finding.severity == ERROR]
    first = next((os.environ[name] for name in RANKS if name in os.environ), '0') == '0'
    if errors:
        raise InvalidLaunch(errors) if first else SystemExit(1)
    for finding in findings if first else ():
        MMLogger.get_current_instance().warning(str(finding))
