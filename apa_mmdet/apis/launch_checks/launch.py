"""A start of a training or a test, as its checks see it."""

import os
from typing import Any, NamedTuple

from mmengine.config import Config

SPLITS = {'train.py': ('train', 'val'), 'test.py': ('test',)}  # that a tool reads; it evaluates the last
RANKS = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}  # variables of the launchers


class Launch(NamedTuple):
    """A start of one of MMDetection's tools.

    Args:
        tool: ``train.py`` or ``test.py``.
        cfg: the config, with the options of the command line in it.
        options: those options by themselves, ``{'train_cfg.max_epochs': 2}``.
        resume: ``'auto'`` for ``--resume``, a path for ``--resume PATH``, else None.
        checkpoint: the checkpoint that is tested; None in training.
        tta: whether ``--tta`` is given.
        draws: whether ``--show`` or ``--show-dir`` is given.
        work_dir: as given on the command line, None for the config's.
        launcher: that of ``--launcher``: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
    """

    tool: str
    cfg: Config
    options: dict[str, Any] = {}
    resume: str | None = None
    checkpoint: str | None = None
    tta: bool = False
    draws: bool = False
    work_dir: str | None = None
    launcher: str = 'none'

    @property
    def scope(self) -> str:
        """The default scope of what the config builds."""
        return self.cfg.get('default_scope') or 'mmdet'

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of ``train``, ``val`` and ``test`` are read."""
        return SPLITS[self.tool]

    @property
    def evaluated_split(self) -> str:
        """Which of them is evaluated."""
        return self.splits[-1]

    @property
    def is_first_process(self) -> bool:
        """Whether this is the first or only process of the start.

        Without a launcher it is, whatever the variables say: they may be those of a sweep, one start in each task of a
        job.
        """
        variable = RANKS.get(self.launcher)
        return variable is None or os.environ.get(variable, '0') == '0'
