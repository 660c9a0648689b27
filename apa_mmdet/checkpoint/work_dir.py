"""Finds the files of a run that was moved or copied.

MMEngine writes the paths of a run's checkpoints, as they were then, into ``last_checkpoint`` and into the checkpoints.
"""

import os
import re
from pathlib import Path


def latest_checkpoint(work_dir: str | os.PathLike, out_dir: str | os.PathLike | None = None) -> str | None:
    """The checkpoint that ``last_checkpoint`` names, as :func:`in_folder` has it; None if there is no such file.

    Args:
        work_dir: of the run.
        out_dir: of its CheckpointHook, which writes into a folder there of the name of the work dir; None without one.
    """
    work_dir, out_dir = os.fspath(work_dir), str(out_dir or work_dir)
    file = Path(work_dir) / 'last_checkpoint'
    if not file.is_file():
        return None
    folder = work_dir
    if out_dir != work_dir and '://' not in out_dir:
        folder = os.path.join(out_dir, os.path.basename(work_dir.rstrip(os.sep)))
    return in_folder(file.read_text().strip(), folder)


def in_folder(path: str, folder: str | os.PathLike) -> str:
    """The file or folder of this name in ``folder`` if it exists, else ``path``.

    Example:
        >>> in_folder('work_dirs/first/epoch_1.pth', 'work_dirs/copied')  # which has no epoch_1.pth
        'work_dirs/first/epoch_1.pth'
    """
    own = os.path.join(folder, file_name(path))
    return own if file_name(path) and os.path.exists(own) else path


def file_name(path: str) -> str:
    """The last part of a path of any system.

    Example:
        >>> file_name('work_dirs/first/epoch_1.pth'), file_name('work_dirs\\\\first\\\\epoch_1.pth')
        ('epoch_1.pth', 'epoch_1.pth')
    """
    return re.split(r'[\\/]', path)[-1]
