"""Checks whether the checkpoints that a start names exist, before the data set and the model are built."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apa_mmdet.checkpoint.scheme import local_path, pretrained_parts
from apa_mmdet.checkpoint.work_dir import latest_checkpoint
from apa_mmdet.utils.config import section
from apa_mmdet.utils.findings import Findings

from .launch import Launch


def check_checkpoints(launch: Launch, findings: Findings) -> None:
    """Reports checkpoints and pretrained weights that are not there; URLs and names of model zoos are left alone."""
    latest = latest_of(launch)
    if latest is not None and not _exists(launch, latest):
        findings.add('missing-latest', [latest], folder=work_dir_of(launch), path=latest)
    resumed = None if launch.resume == 'auto' else launch.resume
    start = None if launch.checkpoint or resumed or latest else launch.cfg.get('load_from')
    loaded = {'CHECKPOINT': launch.checkpoint, '--resume': resumed, 'load_from': start}
    for setting, path in loaded.items():
        if path and not _exists(launch, path):
            findings.add('missing-checkpoint', [path], setting=setting, path=path)
    for setting, path in _pretrained(launch.cfg.get('model'), 'model') if launch.tool == 'train.py' else ():
        if not _exists(launch, path):
            findings.add('missing-pretrained', [path], setting=setting, path=path)


def latest_of(launch: Launch) -> str | None:
    """The checkpoint that a training resumes by itself; None if another is named, or there is none yet."""
    resumes = launch.resume == 'auto' or (launch.cfg.get('resume') is True and not launch.cfg.get('load_from'))
    if launch.tool != 'train.py' or not resumes or launch.resume not in (None, 'auto'):
        return None
    out_dir = section(section(launch.cfg, 'default_hooks'), 'checkpoint').get('out_dir')
    return latest_checkpoint(work_dir_of(launch), out_dir)


def work_dir_of(launch: Launch) -> str:
    """The work dir as MMDetection's tools choose it."""
    default = f'./work_dirs/{Path(launch.cfg.filename or "config").stem}'
    return launch.work_dir or launch.cfg.get('work_dir') or default


def _exists(launch: Launch, path: Any) -> bool:
    file = local_path(path) if isinstance(path, (str, os.PathLike)) else None
    if file is None or os.path.isfile(file):
        return True
    return os.path.isdir(file) and launch.cfg.get('runner_type') == 'FlexibleRunner'  # it saves in parts


def _pretrained(node: Any, setting: str) -> Iterator[tuple[str, str]]:
    """Yields each setting below ``node`` that names pretrained weights, and the path."""
    if isinstance(node, (list, tuple)):
        for i, part in enumerate(node):
            yield from _pretrained(part, f'{setting}.{i}')
    elif isinstance(node, dict):
        if node.get('teacher_ckpt'):  # of distillation
            yield f'{setting}.teacher_ckpt', node['teacher_ckpt']
        for part in pretrained_parts(node.get('init_cfg')):
            yield f'{setting}.init_cfg' + '.checkpoint' * (part is node['init_cfg']), part['checkpoint']
        for key, value in node.items():
            if key != 'init_cfg':
                yield from _pretrained(value, f'{setting}.{key}')
