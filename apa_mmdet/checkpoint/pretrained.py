"""Checks of pretrained weights before a backbone loads them."""

import os

from mmengine.runner import CheckpointLoader
from torch import Tensor

from .compare import check_fit
from .io import find_weights
from .scheme import SCHEME, data_only


def check_weights(init_cfg: dict, expected: dict[str, Tensor]) -> dict:
    """Checks that weights are those of the backbone, where MMEngine would go on with random ones.

    Missing names are allowed, so that a plain ResNet's weights can be used; MMEngine lists them.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=…)``, with ``prefix`` for a part of the checkpoint.
        expected: the backbone's state dict.

    Returns:
        ``init_cfg`` that reads the checkpoint as data.

    Raises:
        FileNotFoundError: if there is no such file.
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they are those of another network.
    """
    path = str(init_cfg['checkpoint']).removeprefix(SCHEME)
    if '://' not in path and not os.path.isfile(os.path.expanduser(path)):
        raise FileNotFoundError(
            f'pretrained weights {path!r} not found: put ImageNet weights of this backbone there (official ones are '
            'converted by tools/convert_official_weights.py), name others with '
            '--cfg-options model.backbone.init_cfg.checkpoint=…, or train all of it from random weights with '
            '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 model.backbone.norm_eval=False'
        )
    content = CheckpointLoader.load_checkpoint(data_only(path), 'cpu', logger='silent')
    prefix = f'{init_cfg["prefix"].rstrip(".")}.' if init_cfg.get('prefix') else ''
    weights = {name.removeprefix(prefix): tensor for name, tensor in find_weights(content, path)[0].items()}
    check_fit(weights, expected, path, 'this backbone', ignore=('missing', 'type', 'not-finite', 'unexpected'))
    return dict(init_cfg, checkpoint=data_only(path))
