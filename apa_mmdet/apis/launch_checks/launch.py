"""A start of a training or a test, as its checks see it."""

from typing import Any, NamedTuple

from mmengine.config import Config


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
    """

    tool: str
    cfg: Config
    options: dict[str, Any] = {}
    resume: str | None = None
    checkpoint: str | None = None
    tta: bool = False
    draws: bool = False
    work_dir: str | None = None
