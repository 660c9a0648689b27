"""Finds batches of one image that a batch norm cannot train on before the end of an epoch does."""

from collections.abc import Callable
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.hooks import RemovableHandle

from apa_mmdet.models.activations import MetaAconC
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.model import unwrap_model

from .seeded_data import PositionBatchSampler


class SingleImage(CodedError):
    """Raised when a batch of one image leaves a batch norm one value per channel; code ``single-image``."""


class BatchSizes:
    """How many images the batches of a data loader hold in this process.

    Attributes:
        first, last: of an epoch; 0 where the batch sampler does not say.
        epoch: images in an epoch.
        drop_last: the setting that drops an incomplete batch.
    """

    def __init__(self, loader: DataLoader) -> None:
        batches: Any = getattr(loader, 'batch_sampler', None)
        batches = batches.batch_sampler if isinstance(batches, PositionBatchSampler) else batches
        self.drop_last = f'train_dataloader.{"" if type(batches) is BatchSampler else "batch_sampler."}drop_last'
        self.epoch = self.first = self.last = 0
        size, sampler = getattr(batches, 'batch_size', None), getattr(batches, 'sampler', None)
        if isinstance(size, int) and hasattr(sampler, '__len__'):
            whole = getattr(batches, 'drop_last', False) or isinstance(sampler, InfiniteSampler)
            self.epoch = len(sampler)
            self.first = size if whole else min(size, self.epoch)
            self.last = size if whole else self.epoch % size or self.first


class SingleImages(Hook):
    """Raises in the first step if a norm in training mode sees one value per channel and image, and a batch one image.

    torch raises as well, but only in that batch, hours later where it is the last of an epoch. Networks of stride 32
    see one pixel of an image of at most 32x32.

    Args:
        sizes: those of the batches.
    """

    def __init__(self, sizes: BatchSizes) -> None:
        self.sizes = sizes
        self.handles: list[RemovableHandle] = []
        self.done = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if not self.done:
            model = unwrap_model(runner.model)
            own = {id(norm) for act in model.modules() if isinstance(act, MetaAconC) for norm in act.modules()}
            for name, norm in model.named_modules():
                shared = isinstance(norm, nn.SyncBatchNorm) and get_world_size() > 1
                if isinstance(norm, _BatchNorm) and norm.training and not shared and id(norm) not in own:
                    self.handles.append(norm.register_forward_pre_hook(self._check(name)))
            self.done = True

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        while self.handles:
            self.handles.pop().remove()

    def _check(self, name: str) -> Callable:
        def check(norm: nn.Module, inputs: tuple) -> None:
            images, _, *pixels = inputs[0].shape
            # else the norm sees RoIs, or several pixels; a resumed run may start with the batch of one
            if images in (1, self.sizes.first) and set(pixels) <= {1}:
                raise SingleImage('single-image', self._message(name))

        return check

    def _message(self, name: str) -> str:
        sizes, why = self.sizes, f'of which the norm {name} sees one value per channel, without a variance'
        if sizes.first == 1:
            return f'train_dataloader: its batches hold one image, {why}: set a larger batch_size, or use larger images'
        return (
            f'train_dataloader: the last batch of an epoch holds one image ({sizes.epoch} images in batches of '
            f'{sizes.first}), {why}: set {sizes.drop_last}=True, or use larger images'
        )


def refuse_single_images(runner: Runner, loader: DataLoader) -> None:
    """Lets a training whose batches may hold one image raise :class:`SingleImage` in its first step."""
    sizes = BatchSizes(loader)
    if sizes.last == 1:
        runner.register_hook(SingleImages(sizes), 'VERY_LOW')
