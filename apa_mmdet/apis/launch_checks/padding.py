"""Checks whether attention would pool over the padding of a batch."""

from collections.abc import Iterator
from typing import Any

from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from apa_mmdet.datasets.validation.findings import Findings
from apa_mmdet.models.activations import MetaAconC
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.data_preprocessors import PaddingAwareDetDataPreprocessor

from .launch import Launch

LOADERS = {'train.py': ('train_dataloader', 'val_dataloader'), 'test.py': ('test_dataloader',)}


def check_padding(launch: Launch, findings: Findings) -> None:
    """Finds batches of several images in front of attention that does not know which part of them is padding."""
    model = launch.cfg.get('model')
    parts = list(_dicts(model))
    with DefaultScope.overwrite_default_scope(launch.cfg.get('default_scope') or 'mmdet'):
        classes = [_class_of(part) for part in parts]
    own = [part for cls, part in zip(classes, parts) if _is(cls, SEResNet)]
    meta_acon = any(_is(cls, MetaAconC) for cls in classes)
    pools = meta_acon or any(part.get('se_cfg', {}) is not None for part in own)
    told = own and any(_is(cls, PaddingAwareDetDataPreprocessor) for cls in classes)  # other backbones do not ask
    if not pools or told:
        return
    loaders = [name for name in LOADERS.get(launch.tool, ()) if _batch_size(launch.cfg.get(name)) > 1]
    if loaders:
        findings.add('pooled-padding', loaders, loaders=', '.join(loaders))


def _dicts(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(value)


def _class_of(part: dict) -> type | None:
    name = part.get('type')
    try:
        found = MODELS.get(name) if isinstance(name, str) else name
    except Exception:  # a scope that is not installed: the build reports it
        return None
    return found if isinstance(found, type) else None


def _is(cls: type | None, base: type) -> bool:
    return cls is not None and issubclass(cls, base)


def _batch_size(loader: Any) -> int:
    size = loader.get('batch_size', 1) if isinstance(loader, dict) else 1
    return size if isinstance(size, int) else 1
