"""The runner of ``tools/train.py`` and ``tools/test.py``."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from apa_mmdet.checkpoint.class_names import class_differences, recorded_classes
from apa_mmdet.checkpoint.io import BadCheckpoint
from apa_mmdet.checkpoint.loading import load_start, load_whole
from apa_mmdet.checkpoint.pretrained import all_checked_pretrained
from apa_mmdet.checkpoint.scheme import SCHEME, data_only, read_pretrained_as_data
from apa_mmdet.checkpoint.work_dir import latest_checkpoint
from apa_mmdet.models.calibration import name_classes
from apa_mmdet.models.losses import DropLoss

from .learning_rate_checks import unreached_steps, wrong_step_size
from .resumed_schedule import BATCHES, follow_config, planned_by_config
from .single_images import refuse_single_images
from .unreadable_images import count_skipped_images, name_unreadable_images

WITHOUT = dict(optimizer='the optimizer starts again', param_schedulers='the schedules are stepped from their start')


@RUNNERS.register_module()
class SafeRunner(Runner):
    """MMEngine's Runner, which reads checkpoints as data, refuses those that do not fit, and needs no GPU.

    ``load_from``, ``resume``, ``teacher_ckpt`` and the ``init_cfg`` of every module are read as tensors and plain data;
    ``meta.config``, which MMEngine's ``resume`` would run, is ignored. MMEngine loads what fits and logs the rest.
    Here,

    - a test and a resumed training need every weight of the model;
    - a training that starts from ``load_from`` needs weights of the same network, and a warning names those that stay
      as initialized, such as the classifier of other classes;
    - a warning says where the checkpoint's classes are not the data set's;
    - resuming needs the states of the optimizer and of the schedules, unless the run's CheckpointHook saves none;
    - a resumed training follows its config, also where that has another schedule, learning rate or weight decay by now;
    - ``resume`` without a path finds the checkpoints of a run that was moved or copied in its work dir.

    Without a GPU, several processes run, and DistributedDataParallel gets no device ids, for which MMEngine takes GPUs.
    A DropLoss without class names gets those of the training data, a calibration those of the evaluated data.
    An image that cannot be read ends a run with a line that names it; with ``ignore_empty=True`` in
    ``LoadImageFromFile`` training takes another one, and how often it did is logged.
    A batch of one image that a batch norm cannot train on, such as the last of an epoch, ends a run in its first step.
    ``num_workers=0`` works with the ``persistent_workers=True`` of a base config, which torch refuses.
    """

    _path = ''  # of the checkpoint that is being loaded
    _resumed_states: tuple[str, ...] | None = None  # while resuming: the states that are resumed
    _resumed: dict = {}  # while resuming: the checkpoint

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        if isinstance(dataloader, dict) and dataloader.get('num_workers', 0) == 0:
            of_workers = ('persistent_workers', 'prefetch_factor')
            dataloader = {key: value for key, value in dataloader.items() if key not in of_workers}
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        name_unreadable_images(loader.dataset)
        return loader

    def train(self) -> nn.Module:
        model = super().train()
        skipped = count_skipped_images(self.train_dataloader.dataset)
        if skipped:
            MMLogger.get_current_instance().warning(
                f'images that cannot be read were skipped {skipped} times; tools/check_dataset.py lists them'
            )
        return model

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        if deterministic:  # else cuBLAS refuses; it reads the variable when it is first used
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        super().set_randomness(seed, diff_rank_seed, deterministic)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        if isinstance(model, dict) and model.get('teacher_ckpt'):  # of a distillation detector, which loads it itself
            model = {**model, 'teacher_ckpt': data_only(model['teacher_ckpt'])}
        model = super().build_model(model)
        read_pretrained_as_data(model)
        return model

    def _init_model_weights(self) -> None:
        with all_checked_pretrained(self.model):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """As MMEngine's; the latest checkpoint of a run is first looked for in its own folder.

        In a training warnings follow, of a learning rate or a schedule that does not fit it.
        """
        out_dir = next((hook.out_dir for hook in self.hooks if isinstance(hook, CheckpointHook)), None)
        wanted = self._resume and self._load_from is None and not self._has_loaded
        latest = latest_checkpoint(self.work_dir, out_dir) if wanted else None
        if latest is not None:
            self.logger.info(f'Auto resumed from the latest checkpoint {latest}.')
            self.resume(latest)
        else:
            super().load_or_resume()
        if isinstance(self._train_loop, BaseLoop):
            for warning in (*wrong_step_size(self), *unreached_steps(self)):
                self.logger.warning(warning)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = 'default',
    ) -> None:
        """As MMEngine's; where the config says other than the checkpoint of the optimizer and the schedules, it counts.

        Raises:
            BadCheckpoint: ``not-resumable``, if the checkpoint lacks a state.
        """
        resumed = zip(WITHOUT, (resume_optimizer, resume_param_scheduler))
        self._resumed_states = tuple(state for state, wanted in resumed if wanted)
        planned = planned_by_config(self)
        try:
            super().resume(filename, resume_optimizer, False, map_location)
            if resume_param_scheduler:
                states, conditions = self._resumed.get('param_schedulers'), self._resumed['meta'].get('resume')
                batches = conditions.get(BATCHES) if isinstance(conditions, dict) else None
                follow_config(self, planned, states, resume_optimizer and 'optimizer' in self._resumed, batches)
        finally:
            self._resumed_states, self._resumed = None, {}

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        loop = super().build_train_loop(loop)
        classes = _classes_of(loop)
        for module in self.model.modules():
            if isinstance(module, DropLoss) and module.classes is None:
                module.classes = classes
        refuse_single_images(self, loop.dataloader)
        return loop

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        loop = super().build_val_loop(loop)
        name_classes(self.model, _classes_of(loop))
        return loop

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        loop = super().build_test_loop(loop)
        name_classes(self.model, _classes_of(loop))
        return loop

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        self._path = os.fspath(filename).removeprefix(SCHEME)
        return super().load_checkpoint(data_only(filename), *args, **kwargs)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'after_load_checkpoint':  # hooks have changed what they want to: next, MMEngine loads it
            self._load_if_it_fits(kwargs['checkpoint'])

    def _load_if_it_fits(self, checkpoint: dict) -> None:
        training = isinstance(self._train_loop, BaseLoop)
        built = [loop for loop in (self._train_loop, self._test_loop, self._val_loop) if isinstance(loop, BaseLoop)]
        if (built and not training) or self._resumed_states is not None:
            load_whole(self.model, checkpoint, self._path)
        else:
            load_start(self.model, checkpoint, self._path)
        if self._resumed_states is not None:
            self._check_states(checkpoint)
            self._resumed = checkpoint
        if built:
            self._compare_classes(checkpoint, built[0])

    def _check_states(self, checkpoint: dict) -> None:
        """Raises, or warns where the run saves no more, if a checkpoint does not continue a training."""
        hook = next((hook for hook in self.hooks if isinstance(hook, CheckpointHook)), None)
        wanted = dict(optimizer='save_optimizer', param_schedulers='save_param_scheduler')
        missing = [state for state in self._resumed_states or () if state not in checkpoint]
        if self.param_schedulers is None:
            missing = [state for state in missing if state != 'param_schedulers']
        meta = checkpoint.get('meta')
        known = isinstance(meta, dict) and {'epoch', 'iter'} <= meta.keys() and 'message_hub' in checkpoint
        if known and all(hook is not None and not getattr(hook, wanted[state]) for state in missing):
            for state in missing:
                self.logger.warning(f'{self._path} holds no {state}: {WITHOUT[state]}')
            return
        lacking = ', '.join(missing if known else [*missing, 'epoch, iteration and logs'])
        raise BadCheckpoint(
            'not-resumable',
            f'{self._path} cannot be resumed, it holds no {lacking}; resume from a checkpoint of the training itself '
            f'(not a best or published one), or start a new training from its weights with load_from={self._path}',
        )

    def _compare_classes(self, checkpoint: dict, loop: BaseLoop) -> None:
        theirs = recorded_classes(checkpoint.get('meta'))
        ours = _classes_of(loop)
        known = theirs and isinstance(ours, (list, tuple))
        difference = class_differences(theirs, tuple(map(str, ours))) if known else None
        new_classifier = loop is self._train_loop and difference and len(theirs) != len(ours)  # has been logged
        if difference and not new_classifier:
            self.logger.warning(
                f'{self._path} was trained on classes {difference}; labels mean other classes, unless '
                'metainfo.classes of the data set are those of the checkpoint'
            )

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self.distributed and get_device() == 'cpu':
            cfg = model_wrapper_cfg or dict(  # Runner's default
                broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False)
            )
            wrapper = MODEL_WRAPPERS.get(cfg.get('type', 'MMDistributedDataParallel'))
            if issubclass(wrapper, DistributedDataParallel):
                model_wrapper_cfg = dict(cfg, device_ids=None)
        return super().wrap_model(model_wrapper_cfg, model)


def _classes_of(loop: BaseLoop) -> Sequence[str] | None:
    metainfo = getattr(loop.dataloader.dataset, 'metainfo', None)
    return metainfo.get('classes') if isinstance(metainfo, dict) else None
