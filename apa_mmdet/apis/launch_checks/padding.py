"""Checks whether attention would pool over the padding of a batch."""

from typing import Any

from apa_mmdet.models.activations import MetaAconC
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.data_preprocessors import PaddingAwareDetDataPreprocessor
from apa_mmdet.utils.config import is_classifier, unwrapped, walk
from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import builds

from .launch import Launch


def check_padding(launch: Launch, findings: Findings) -> None:
    """Finds batches of several images in front of attention that does not know which part of them is padding."""
    if is_classifier(launch.cfg):
        return  # whose images are cut to one size
    model = launch.cfg.get('model')
    parts = [node for _, node in walk(unwrapped(model), 'model') if isinstance(node, dict)]
    own = [part for part in parts if builds(part, SEResNet)]
    meta_acon = any(builds(node, MetaAconC) for _, node in walk(model, 'model'))  # also in `swap`
    knows = own and any(builds(part, PaddingAwareDetDataPreprocessor) for part in parts)  # others do not ask
    pools = meta_acon or any(part.get('se_cfg', {}) is not None for part in own)
    if not pools or knows:
        return
    loaders = [f'{split}_dataloader' for split in launch.splits]
    loaders = [name for name in loaders if _batch_size(launch.cfg.get(name)) > 1]
    if loaders:
        findings.add('pooled-padding', loaders, loaders=', '.join(loaders))


def _batch_size(loader: Any) -> int:
    size = loader.get('batch_size', 1) if isinstance(loader, dict) else 1
    return size if isinstance(size, int) else 1
