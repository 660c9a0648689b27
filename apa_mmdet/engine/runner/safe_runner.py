"""The runner of ``tools/train.py`` and ``tools/test.py``."""

from typing import Any

from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from apa_mmdet.checkpoint.scheme import data_only, read_pretrained_as_data


@RUNNERS.register_module()
class SafeRunner(Runner):
    """MMEngine's Runner, which reads checkpoints as data and also runs several processes without GPUs.

    ``load_from``, ``resume`` and the ``init_cfg`` of every module are read as tensors and plain data; ``meta.config``,
    which MMEngine's ``resume`` would run, is ignored. Without a GPU, DistributedDataParallel gets no device ids, for
    which MMEngine takes GPUs.
    """

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        model = super().build_model(model)
        read_pretrained_as_data(model)
        return model

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        return super().load_checkpoint(data_only(filename), *args, **kwargs)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self.distributed and get_device() == 'cpu':
            cfg = model_wrapper_cfg or dict(  # Runner's default
                broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False)
            )
            wrapper = MODEL_WRAPPERS.get(cfg.get('type', 'MMDistributedDataParallel'))
            if issubclass(wrapper, DistributedDataParallel):
                model_wrapper_cfg = dict(cfg, device_ids=None)
        return super().wrap_model(model_wrapper_cfg, model)
