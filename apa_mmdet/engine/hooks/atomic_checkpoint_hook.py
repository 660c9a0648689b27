"""Checkpoints that are complete or absent, whatever kills the process or fills the disk."""

import hashlib
import math
import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner, save_checkpoint

from apa_mmdet.checkpoint.plain_data import make_plain, restore_logs
from apa_mmdet.checkpoint.work_dir import file_name
from apa_mmdet.evaluation.functional.metric_names import is_average, overall_precision
from apa_mmdet.utils.fileio import ATOMIC_BACKEND, UNFINISHED, atomic_write, remove, replace

TRACKED_STATE = (
    'last_ckpt',
    'keep_ckpt_ids',
    'best_ckpt_path',
    'best_ckpt_path_dict',
)  # what the hook knows of its files


@contextmanager
def _fails_in_all_processes(path: str) -> Iterator[None]:
    """Raises an OSError of one process in all of them, or with FSDP they would wait for each other."""
    failure = None
    try:
        yield
    except OSError as error:
        failure = error.errno, error.strerror or str(error), path
    for first in filter(None, [failure, *all_gather_object(failure)]):
        raise OSError(*first)


class _Delegate:
    """Has the attributes of ``inner``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _AtomicSaves(_Delegate):
    """A runner for the time that MMEngine's hook saves a checkpoint."""

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """As the runner's; a local file is complete or absent, and what one process cannot write fails in all."""
        # a strategy of FlexibleRunner takes no backend: what it writes is renamed afterwards
        rename = hasattr(self.inner, 'strategy') and '://' not in out_dir
        path = os.path.join(out_dir, filename)
        written = Path(path + UNFINISHED if rename else path)
        try:
            with _fails_in_all_processes(path):
                self.inner.save_checkpoint(out_dir, written.name, *args, **kwargs)
            with _fails_in_all_processes(path):
                if rename and is_main_process():
                    replace(written, Path(path))
        except OSError:
            if rename and is_main_process():
                remove(written)
            raise


class _PostponedRemovals(_Delegate):
    """A file backend that lists in ``paths`` what to remove."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.paths: list[str] = []
        self.remove = self.rmtree = self.paths.append


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook with all its arguments, and six promises more.

    - A file under its final name is complete: it is written beside it, flushed to disk and renamed. So is
      ``last_checkpoint``, after the checkpoint that it names.
    - What ``max_keep_ckpts`` or ``save_best`` outdates is removed after its successor is complete, not before.
    - Where a file cannot be written (disk full, over quota, read-only), one line says so with the free space, the
      previous file stays, and training goes on and tries again at the next interval. The last checkpoint of a run has
      no next interval: there the error ends the run.
    - What is saved are tensors and plain data: ``torch.load(weights_only=True)`` reads it.
    - Files in other folders than its own are not removed: a run that resumes the checkpoint of another, or is a copy of
      it, leaves the other's best checkpoint alone.
    - ``save_best='auto'`` is the overall AP, of masks where there are masks, and of every AP and AR more is better. An
      AP of nothing, NaN or -1, is never the best. A metric that a validation does not give costs a line in the log.

    Files that a killed process left unfinished are removed at the start of the next run. Local files are written by the
    backend ``apa_mmdet.atomic``. With ``backend_args``, ``file_client_args`` or a remote ``out_dir`` another backend
    writes, which may leave a part of a file.
    """

    def before_train(self, runner: Runner) -> None:
        """Chooses the backend and removes what a killed process left."""
        if self.backend_args is None and self.file_client_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = dict(backend=ATOMIC_BACKEND)
        kept = runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
        outdated = kept[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        del kept[: len(outdated)]  # or MMEngine would remove their files, and fail where it cannot
        super().before_train(runner)
        self._find_best(runner)
        self._remove_outdated(runner, map(self._path, outdated))
        local = isinstance(self.file_backend, LocalBackend)
        folders = {runner.work_dir} | ({str(self.out_dir)} if local else set())
        if is_main_process():
            for path in [path for folder in folders for path in Path(folder).glob('*' + UNFINISHED)]:
                remove(path)
                runner.logger.info(f'removed {path}, which an interrupted run left unfinished')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        make_plain(checkpoint)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        restore_logs(checkpoint)

    def _find_best(self, runner: Runner) -> None:
        """Takes the best checkpoints of a resumed run from its own folder; those of another run are not its own."""
        best = getattr(self, 'best_ckpt_path_dict', {})
        keys = [('', getattr(self, 'best_ckpt_path', None)), *((f'_{key}', path) for key, path in best.items())]
        for suffix, path in keys:
            if not path:
                continue
            own = self.file_backend.join_path(self.out_dir, file_name(path))
            if not self.file_backend.exists(own) and not self._is_own(path):
                runner.logger.info(f'{path}, the best checkpoint so far, is of another run and stays there')
                own = None
            if suffix:
                best[suffix[1:]] = own
            else:
                self.best_ckpt_path = own
            if own:
                runner.message_hub.update_info(f'best_ckpt{suffix}', own)

    def _is_own(self, path: str) -> bool:
        """Whether a path lies in the folder of this run."""
        own = self.file_backend.join_path(self.out_dir, file_name(path))
        return path == own or ('://' not in path + own and os.path.realpath(path) == os.path.realpath(own))

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """As MMEngine's, through the backend of the hook."""
        checkpoint = CheckpointLoader.load_checkpoint(ckpt_path, 'cpu', 'silent')
        published = {key: value for key, value in checkpoint.items() if key in self.published_keys}
        digest = hashlib.sha256(pickle.dumps(published)).hexdigest()
        path = f'{os.path.splitext(ckpt_path)[0]}-{digest[:8]}.pth'
        save_checkpoint(published, path, self.file_client_args, self.backend_args)
        runner.logger.info(
            f'{ckpt_path} is published as {path}, without {sorted(checkpoint.keys() - published.keys())}'
        )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        last = step >= (runner.max_epochs if self.by_epoch else runner.max_iters)
        with self._rollback_on_error(runner, last, 'training goes on and tries again at the next interval'):
            outdated = self._track(runner, step)
            runner = runner if isinstance(runner, _AtomicSaves) else _AtomicSaves(runner)
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
            last_checkpoint = os.path.join(runner.work_dir, 'last_checkpoint')
            with _fails_in_all_processes(last_checkpoint):
                if is_main_process():
                    atomic_write(last_checkpoint, self.last_ckpt.encode())
        self._remove_outdated(runner, outdated)

    def _track(self, runner: Runner, step: int) -> list[str]:
        """Records the checkpoint of ``step``; returns the paths that it outdates.

        Their steps stay in the list that the checkpoint holds. What is too many in it is removed when a run starts, in
        case this one is killed before it removes them.
        """
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if self.max_keep_ckpts <= 0:
            return []
        # filename_tmpl may give all of them one name
        kept = [number for number in self.keep_ckpt_ids if self._path(number) != self.last_ckpt] + [step]
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        return [self._path(number) for number in kept[: -self.max_keep_ckpts]]

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _init_rule(self, rules: list[str | None], key_indicators: list[str]) -> None:
        rules = rules * len(key_indicators) if len(rules) == 1 else rules
        known = ['greater' if rule is None and is_average(key) else rule for rule, key in zip(rules, key_indicators)]
        super()._init_rule(known, key_indicators)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        overall = overall_precision(metrics)
        if self.key_indicators == ['auto'] and overall:
            self._init_rule(self.rules, [overall])
        lacking = [key for key in self.key_indicators if key != 'auto' and key not in metrics]
        if lacking:
            runner.logger.error(
                f'save_best={lacking[0]}: no such metric, so that no best checkpoint is saved; there are '
                f'{", ".join(list(metrics)[:20])}'
            )
            return
        metrics = {key: math.nan if is_average(key) and value < 0 else value for key, value in metrics.items()}
        backend = self.file_backend
        self.file_backend = removals = _PostponedRemovals(backend)
        try:
            with self._rollback_on_error(runner, False, 'the next validation that beats it tries again'):
                super()._save_best_checkpoint(_AtomicSaves(runner), metrics)
        finally:
            self.file_backend = backend
        self._remove_outdated(runner, removals.paths)

    def _remove_outdated(self, runner: Runner, paths: Iterable[str]) -> None:
        """Removes those of the files that the hook does not track."""
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        tracked = {self.last_ckpt, *best, *map(self._path, getattr(self, 'keep_ckpt_ids', ()))}
        for path in filter(self._is_own, set(paths) - tracked) if is_main_process() else ():
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
    def _rollback_on_error(self, runner: Runner, last: bool, consequence: str) -> Iterator[None]:
        """Restores the state of the hook if a write in the block fails; logs the error, or raises it with ``last``."""
        info = dict(runner.message_hub.runtime_info)
        state = {name: copy(getattr(self, name)) for name in TRACKED_STATE if hasattr(self, name)}
        try:
            yield
        except OSError as error:
            runner.message_hub.runtime_info.clear()
            runner.message_hub.runtime_info.update(info)
            vars(self).update(state)
            if last:
                raise
            path, reason = error.filename or self.out_dir, error.strerror or error
            runner.logger.error(
                f'{path} could not be written ({reason}): the checkpoint before it stays, {consequence}'
            )
