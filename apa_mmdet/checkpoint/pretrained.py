"""Checks of pretrained weights before a backbone loads them."""

from pathlib import Path

from mmengine.runner import CheckpointLoader
from torch import Tensor

from .io import read_checkpoint
from .published_names import depth_of, translate_names


def check_weights(init_cfg: dict, own: dict[str, Tensor]) -> None:
    """Raise where MMEngine would go on with random weights: no such file, or one with the weights of something else.

    Names that the file lacks are allowed, so that a plain ResNet's weights serve; MMEngine lists them.
    """
    path = str(init_cfg['checkpoint'])
    if '://' not in path and not Path(path).expanduser().is_file():
        raise FileNotFoundError(
            f'pretrained weights {path!r} not found: put ImageNet weights of this backbone there (published ones are '
            'converted by tools/convert_official_weights.py), name others with '
            '--cfg-options model.backbone.init_cfg.checkpoint=…, or train all of it from random weights with '
            '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 model.backbone.norm_eval=False'
        )
    prefix = f'{init_cfg["prefix"].rstrip(".")}.' if init_cfg.get('prefix') else ''
    weights = {name.removeprefix(prefix): tensor for name, tensor in _weights_in(path).items()}
    if not any(name in own for name in weights):
        raise ValueError(
            f'{path}: none of its {len(weights)} entries ({", ".join(list(weights)[:3])} …) is a parameter '
            f'of this backbone ({", ".join(list(own)[:3])} …); tools/convert_official_weights.py converts '
            "published weights, and init_cfg's prefix='backbone.' takes those of a detector"
        )

    published = [name for name, ours in translate_names(weights).items() if ours != name]
    if published:
        raise ValueError(
            f'{path} has the published names ({published[0]} …), under which learnable activations and '
            'attention would start from random weights; convert it with tools/convert_official_weights.py'
        )
    theirs, ours = depth_of(weights), depth_of(own)
    if theirs and ours and theirs != ours:
        raise ValueError(f'{path} holds a network of depth {theirs}, but this backbone has depth {ours}')
    other = [name for name, tensor in weights.items() if name in own and tensor.shape != own[name].shape]
    if other:
        raise ValueError(
            f'{path}: {other[0]} has the shape {tuple(weights[other[0]].shape)}, but this backbone '
            f'{tuple(own[other[0]].shape)}; it holds the weights of another network'
        )


def _weights_in(path: str) -> dict[str, Tensor]:
    """What MMEngine would load, with errors in one line where the file lies on this machine."""
    if '://' in path:
        weights = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        return weights.get('state_dict', weights)
    weights, under, *_ = read_checkpoint(Path(path).expanduser())
    if under == 'model':
        raise ValueError(
            f'{path} has its weights under `model`, as published classifiers have them; convert it with '
            'tools/convert_official_weights.py'
        )
    return weights
