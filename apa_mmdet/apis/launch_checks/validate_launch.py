"""Checks whether the settings of a start fit together, before data or models are built."""

from collections.abc import Callable, Sequence

from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.finding_codes import ERROR
from apa_mmdet.utils.findings import Finding, Findings

from .dtypes import check_dtypes
from .evaluation import check_palette, check_several_datasets, check_tta
from .launch import Launch
from .losses import check_losses
from .metrics import check_metrics
from .options import check_options
from .padding import check_padding
from .registered_types import check_registered_types
from .weights import check_checkpoints

Check = Callable[[Launch, Findings], None]  # adds to the findings
CHECKS: tuple[Check, ...] = (
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


class InvalidLaunch(CodedError):
    """A start that would fail or mislead; code ``findings``: the errors are ``findings``, a line each."""

    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> 'InvalidLaunch':
        """The error about these findings."""
        error = cls('findings', '\n'.join(map(str, findings)))
        error.findings = tuple(findings)
        return error


def check_launch(launch: Launch, checks: Sequence[Check] = CHECKS) -> Findings:
    """Returns what the checks find in the scope of the config, without raising or logging anything.

    In a scope that is not installed, which building reports, nothing is known about the parts of the config.
    """
    findings = Findings('config')
    with DefaultScope.overwrite_default_scope(launch.scope), MODELS.switch_scope_and_registry(None) as registry:
        is_installed = registry.scope == launch.scope
    with DefaultScope.overwrite_default_scope(launch.scope if is_installed else None):
        for check in checks:
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
    if errors:
        raise InvalidLaunch.of(errors) if launch.is_first_process else SystemExit(1)
    for finding in findings if launch.is_first_process else ():
        MMLogger.get_current_instance().warning(str(finding))
