"""Joins several processes on a machine without a GPU; docs/distributed.md says what else works there.

MMEngine's ``init_dist`` gives each process a GPU before it does anything else; :func:`join_on_cpu` comes before it.
"""

import os
from datetime import timedelta

import torch.distributed
from mmengine.device import get_device

from apa_mmdet.utils.errors import CodedError

TIMEOUT = timedelta(hours=2)  # while process 0 evaluates, the others wait for it


class LauncherError(CodedError):
    """Raised when the launcher that was asked for cannot be used; codes ``needs-gpu`` and ``missing-variable``."""


def join_on_cpu(launcher: str) -> bool:
    """Joins the other processes through gloo if there is a launcher and no GPU; returns whether that was so.

    Args:
        launcher: one of MMDetection's: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        LauncherError: for a launcher other than ``pytorch`` without a GPU, or one that has not set its variables.
    """
    if launcher not in ('pytorch', 'slurm', 'mpi') or get_device() != 'cpu':  # the tools refuse others themselves
        return False
    if launcher != 'pytorch':
        raise LauncherError(
            'needs-gpu',
            f'--launcher {launcher} needs a GPU for each process, and there is none; without GPUs '
            'start tools/dist_train.sh or tools/dist_test.sh on each machine, see docs/distributed.md',
        )
    missing = [
        name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ
    ]
    if missing:
        raise LauncherError(
            'missing-variable',
            f'--launcher pytorch needs the environment variable {missing[0]}, which torchrun sets; '
            'start several processes with tools/dist_train.sh or tools/dist_test.sh',
        )
    torch.distributed.init_process_group('gloo', timeout=TIMEOUT)
    return True
