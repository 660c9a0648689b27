"""Several processes on a machine without a GPU: what MMEngine takes for granted there, and how to do without.

MMEngine's ``init_dist`` gives each process a GPU before it does anything else, and its runner names that GPU to
DistributedDataParallel. Where there is none, :func:`join_on_cpu` comes before the one and :class:`CPURunner` in place
of the other; docs/distributed.md says what else works without a GPU.
"""

import os
from datetime import timedelta

import torch.distributed
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=2)  # while process 0 evaluates, the others wait for it


class LauncherError(ValueError):
    """The processes cannot be started in the way that was asked for."""


def join_on_cpu(launcher: str) -> bool:
    """Join the other processes through gloo, if there is a launcher and no GPU; whether that was so.

    Args:
        launcher: as MMDetection's tools have it: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        LauncherError: for a launcher other than ``pytorch`` without a GPU, or one that has not set its variables.
    """
    if launcher not in ('pytorch', 'slurm', 'mpi') or get_device() != 'cpu':  # the tools refuse others themselves
        return False
    if launcher != 'pytorch':
        raise LauncherError(
            f'--launcher {launcher} needs a GPU for each process, and there is none; without GPUs '
            'start tools/dist_train.sh or tools/dist_test.sh on each machine, see docs/distributed.md'
        )
    missing = [
        name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ
    ]
    if missing:
        raise LauncherError(
            f'--launcher pytorch needs the environment variable {missing[0]}, which torchrun sets; '
            'start several processes with tools/dist_train.sh or tools/dist_test.sh'
        )
    torch.distributed.init_process_group('gloo', timeout=PATIENCE)
    return True


@RUNNERS.register_module()
class CPURunner(Runner):
    """MMEngine's Runner for processes without GPUs. The tools take it where a config names no other."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As of Runner, but DistributedDataParallel is told no GPU."""
        if self.distributed:
            cfg = model_wrapper_cfg or dict(  # what Runner does without one
                broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False)
            )
            kind = MODEL_WRAPPERS.get(cfg.get('type', 'MMDistributedDataParallel'))
            if issubclass(kind, DistributedDataParallel):
                model_wrapper_cfg = dict(cfg, device_ids=None)
        return super().wrap_model(model_wrapper_cfg, model)
