"""Checks of pretrained weights before a backbone loads them."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from .as_taken import load_as_taken
from .compare import WrongWeights, check_fit, merged, not_given
from .io import find_weights
from .scheme import SCHEME, already_read, data_only, local_path, pretrained_parts

NOT_FOUND = (
    'put ImageNet weights of this backbone there (official ones are converted by tools/convert_official_weights.py), '
    'name others with --cfg-options model.backbone.init_cfg.checkpoint=…, or train all of it from random weights with '
    '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 model.backbone.norm_eval=False'
)
BACKBONE = 'backbone.'


@contextmanager
def checked_pretrained(module: nn.Module, other_shapes: bool = False) -> Iterator[None]:
    """Checks that the weights in a module's ``init_cfg`` are its own, where MMEngine would go on with random ones.

    ``init_weights`` in the block loads what was checked. Missing weights are allowed, so that a plain ResNet's can be
    used, and with ``other_shapes`` also those of another shape. Warnings name what stays random, what of it is frozen,
    and weights that layers of this network ignore, as of other activations. Of the checkpoint of a whole classifier or
    detector, which has them under ``backbone.``, the backbone's are taken without ``prefix='backbone.'`` in the
    ``init_cfg`` as well.

    Raises:
        FileNotFoundError: if there is no such file.
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they are those of another network.
    """
    contents = {}
    for part in pretrained_parts(getattr(module, 'init_cfg', None)):
        path = os.fspath(part['checkpoint']).removeprefix(SCHEME)
        file = local_path(path)
        if file is not None and not os.path.isfile(file):
            raise FileNotFoundError(f'pretrained weights {path!r} not found: {NOT_FOUND}')
        part['checkpoint'] = data_only(path)
        if path not in contents:
            contents[path] = CheckpointLoader.load_checkpoint(data_only(path), 'cpu', logger='silent')
        target = module.get_submodule(part.get('name', ''))
        if not part.get('prefix') and _is_of_a_whole_model(contents[path], path, target):
            part['prefix'] = BACKBONE
        _check(contents[path], path, part.get('prefix'), target, other_shapes)
    with already_read(contents):
        yield


@contextmanager
def all_checked_pretrained(model: nn.Module) -> Iterator[None]:
    """As :func:`checked_pretrained`, for the modules of a model whose ``init_weights`` is MMEngine's.

    Others may convert what they load, as Swin does, or check it themselves, as our backbones do.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, BaseModule) and type(module).init_weights is BaseModule.init_weights:
                stack.enter_context(checked_pretrained(module, other_shapes=True))
        yield


def _is_of_a_whole_model(content: dict, path: str, module: nn.Module) -> bool:
    """Whether a file, as one of a training here, has weights of this module under ``backbone.`` alone."""
    weights, expected = find_weights(content, path)[0], module.state_dict()
    return any(BACKBONE + name in weights for name in expected) and not any(name in weights for name in expected)


def _check(content: dict, path: str, prefix: str | None, module: nn.Module, other_shapes: bool) -> None:
    weights, _ = find_weights(content, path)
    if prefix:
        prefix, names = prefix.rstrip('.') + '.', list(weights)
        weights = {name[len(prefix) :]: weights[name] for name in names if name.startswith(prefix)}
        if not weights:
            raise WrongWeights(
                'nothing-in-common',
                f'{path} has no weights under the prefix {prefix!r}, but {merged(names, 3)}; correct init_cfg.prefix',
            )
    taken = load_as_taken(module, weights)
    ignore = ('missing', 'type', 'not-finite', 'unexpected') + (('shape',) if other_shapes else ())
    differences = check_fit(taken.weights, taken.expected, path, 'this backbone', ignore)
    warn_of_rest(module, not_given(differences), path, 'random')
    warn_of_ignored(taken.inside(differences['unexpected']), path)


def warn_of_ignored(names: list[str], path: str) -> None:
    """Logs the weights of a checkpoint that the layers of these names in a model do not have, as other activations."""
    if names:
        line = f'{len(names)} weights of {path} are ignored, which belong to other layers, such as activations: '
        print_log(line + merged(names), 'current', logging.WARNING)


def warn_of_rest(module: nn.Module, names: list[str], path: str, stay: str) -> None:
    """Logs the parameters that a checkpoint does not give, and once more those of them that are not trained either.

    Args:
        module: whose ``names`` these are.
        names: of parameters, and of buffers, which are not logged.
        path: of the checkpoint.
        stay: what the parameters stay.
    """
    parameters = dict(module.named_parameters())
    rest = [name for name in names if name in parameters]
    frozen = [name for name in rest if not parameters[name].requires_grad]
    lines = [
        f'{len(rest)} of {len(parameters)} weights are not in {path}, or not in this shape, and stay {stay}: '
        f'{merged(rest)}',
        f'{len(frozen)} of these are frozen and will never be trained: {merged(frozen)}; use a checkpoint that has '
        'them, or train them (frozen_stages=-1 in the backbone)',
    ]
    for line, about in zip(lines, (rest, frozen)):
        if about:
            print_log(line, 'current', logging.WARNING)
