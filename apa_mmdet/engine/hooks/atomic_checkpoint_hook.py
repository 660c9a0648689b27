"""Checkpoints that stand whole or not at all, whatever kills the process or fills the disk meanwhile."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from apa_mmdet.utils.fileio import UNFINISHED, AtomicLocalBackend

BOOKS = 'last_ckpt', 'keep_ckpt_ids', 'best_ckpt_path', 'best_ckpt_path_dict'  # what the hook knows of its files


@contextmanager
def _whole_files() -> Iterator[None]:
    """Local files that MMEngine writes in the block are whole; its strategies and _publish_model take no backend."""
    before = type(get_file_backend(''))
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    try:
        yield
    finally:
        register_backend('local', before, force=True, prefixes='')


@contextmanager
def _together() -> Iterator[None]:
    """What one process cannot write in the block fails in all, or with FSDP they would wait for each other."""
    error = None
    try:
        with _whole_files():
            yield
    except OSError as caught:
        error = caught
    failures = all_gather_object(error and (error.errno, error.strerror or str(error), error.filename))
    if error:
        raise error
    for failure in filter(None, failures):
        raise OSError(*failure)


class _SavesTogether:
    """A runner for MMEngine's hook."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def save_checkpoint(self, *args, **kwargs) -> None:
        with _together():
            self.runner.save_checkpoint(*args, **kwargs)


class _RemovesLater:
    """A file backend that notes what to remove in :attr:`doomed`."""

    def __init__(self, backend) -> None:
        self.backend, self.doomed = backend, []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.doomed.append(path)

    rmtree = remove


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, with every argument that it has, and three promises more.

    - A file under its final name is complete: it is written beside it, brought to the disk and renamed. So is
      ``last_checkpoint``, and only once the checkpoint that it names stands.
    - What ``max_keep_ckpts`` or ``save_best`` outdates is removed after its successor stands, not before.
    - Where a file cannot be written (disk full, over quota, read-only), one line says so with the free space, the
      previous one stays, and training goes on and tries again at the next interval. The last checkpoint of a run has
      no next: there the error ends the run.

    On remote storage, or with ``file_client_args``, MMEngine's own backends write, and what a finished write is, is up
    to them; DeepSpeed writes by itself. What a killed process left unfinished is removed at the start of the next.
    """

    def before_train(self, runner: Runner) -> None:
        """Clear away what a killed process left."""
        kept = runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
        outdated = kept[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        del kept[: len(outdated)]  # or MMEngine would remove their files, and end with an error where it cannot
        super().before_train(runner)
        self._remove_outdated(runner, map(self._path, outdated))
        folders = {runner.work_dir} | ({str(self.out_dir)} if type(self.file_backend) is LocalBackend else set())
        if is_main_process():
            for path in [path for folder in folders for path in Path(folder).glob('*' + UNFINISHED)]:
                path.unlink()
                runner.logger.info(f'removed {path}, which an interrupted run left unfinished')

    def after_train(self, runner: Runner) -> None:
        """Publish."""
        with _whole_files():
            super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated: list[str] = []
        last = step >= (runner.max_epochs if self.by_epoch else runner.max_iters)
        with self._books_kept(runner, last, 'training goes on and tries again at the next interval'):
            outdated = self._enter(runner, step)
            with _together():
                runner.save_checkpoint(
                    self.out_dir,
                    self.filename_tmpl.format(step),
                    self.file_client_args,
                    save_optimizer=self.save_optimizer,
                    save_param_scheduler=self.save_param_scheduler,
                    meta=meta,
                    by_epoch=self.by_epoch,
                    backend_args=self.backend_args,
                    **self.args,
                )
                if is_main_process():
                    AtomicLocalBackend().put_text(self.last_ckpt, os.path.join(runner.work_dir, 'last_checkpoint'))
        self._remove_outdated(runner, outdated)

    def _enter(self, runner: Runner, step: int) -> list[str]:
        """Enter the checkpoint of ``step`` in the books; returns the paths that it outdates.

        Their numbers stay in the list that the checkpoint holds. What is too many in it is removed when a run starts,
        which makes good a kill before the removal.
        """
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if self.max_keep_ckpts <= 0:
            return []
        # filename_tmpl may name all of them alike
        kept = [number for number in self.keep_ckpt_ids if self._path(number) != self.last_ckpt] + [step]
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        return [self._path(number) for number in kept[: -self.max_keep_ckpts]]

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            with self._books_kept(runner, False, 'and the next validation that beats it, if one comes, tries again'):
                super()._save_best_checkpoint(_SavesTogether(runner), metrics)
        finally:
            self.file_backend = backend
        self._remove_outdated(runner, later.doomed)

    def _remove_outdated(self, runner: Runner, paths: Iterable[str]) -> None:
        """Remove what is not in the books."""
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        valid = {self.last_ckpt, *best, *map(self._path, getattr(self, 'keep_ckpt_ids', ()))}
        for path in set(paths) - valid if is_main_process() else ():
            try:
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)
                elif self.file_backend.isdir(path):  # a sharded checkpoint
                    self.file_backend.rmtree(path)
            except OSError as error:
                runner.logger.warning(
                    f'{path} is outdated and could not be removed ({error.strerror or error}): '
                    'training goes on; remove it yourself'
                )

    @contextmanager
    def _books_kept(self, runner: Runner, last: bool, then: str) -> Iterator[None]:
        """Whatever cannot be written in the block is as if it had not been tried; ``last``: raise all the same."""
        info = dict(runner.message_hub.runtime_info)
        books = {name: copy(getattr(self, name)) for name in BOOKS if hasattr(self, name)}
        try:
            yield
        except OSError as error:
            runner.message_hub.runtime_info.clear()
            runner.message_hub.runtime_info.update(info)
            vars(self).update(books)
            if last:
                raise
            where, why = error.filename or self.out_dir, error.strerror or error
            runner.logger.error(f'{where} could not be written ({why}): the checkpoint before it stays, {then}')
