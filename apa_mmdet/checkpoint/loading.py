"""Loads checkpoints that fit the model, name for name as its modules take them; refuses the others."""

import os
from collections import OrderedDict
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .compare import StateDict, check_fit, not_given
from .io import find_weights
from .pretrained import warn_of_rest
from .scheme import SCHEME, data_only

CONFIG = 'the model of the config'


def load_whole(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Loads a checkpoint that has to have every weight of the model, as for testing and resuming.

    Names that the model does not have, such as those of a head that only training uses, are ignored.

    Args:
        model: where the weights go.
        checkpoint: content of the file.
        path: what errors call it.

    Raises:
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they do not fit.
    """
    weights, expected = _load_as_far_as_fits(model, checkpoint, path)
    check_fit(weights, expected, path, CONFIG, ignore=('type', 'unexpected'))


def load_start(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Loads a checkpoint from which a training starts: some weights may be new, such as those of other classes.

    A warning names the weights that stay as they are, and those of them that are frozen. Arguments as of
    :func:`load_whole`.

    Raises:
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they are those of another network, or not finite.
    """
    weights, expected = _load_as_far_as_fits(model, checkpoint, path)
    differences = check_fit(weights, expected, path, CONFIG, ignore=('missing', 'shape', 'type', 'unexpected'))
    warn_of_rest(_inner(model), not_given(differences), path, 'as initialized')


def load_file(model: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Reads a file or URL as data and loads it as :func:`load_whole` does; returns its content.

    Raises:
        OSError: if it cannot be read.
        BadCheckpoint, WrongWeights: as :func:`load_whole`.
    """
    path = os.fspath(path).removeprefix(SCHEME)
    checkpoint = CheckpointLoader.load_checkpoint(data_only(path), 'cpu', 'silent')
    load_whole(model, checkpoint, path)
    return checkpoint


def _load_as_far_as_fits(model: nn.Module, checkpoint: dict, path: str) -> tuple[StateDict, StateDict]:
    """Loads weights as MMEngine does; returns them under the names by which the modules take them, and the model's.

    Modules rename weights of older versions, or of a student and a teacher, only while they load them. What no module
    takes keeps its name.
    """
    given, _ = find_weights(checkpoint, path)
    metadata = getattr(given, '_metadata', {})
    taken: StateDict = {}
    expected: StateDict = {}
    unexpected: list[str] = []

    def load(module: nn.Module, weights: StateDict, prefix: str) -> None:
        module = _inner(module)
        module._load_from_state_dict(weights, prefix, metadata.get(prefix[:-1], {}), True, [], unexpected, [])
        for name, tensor in _saved_tensors(module):
            expected[prefix + name] = tensor
            # norms add the counters that old ones lack
            if prefix + name in weights and (tensor.is_floating_point() or prefix + name in given):
                taken[prefix + name] = weights[prefix + name]
        for name, child in module._modules.items():
            inside = f'{prefix}{name}.'
            if child is not None:
                load(child, OrderedDict((key, weights[key]) for key in weights if key.startswith(inside)), inside)

    load(model, OrderedDict(given), '')
    return {**taken, **{name: given[name] for name in unexpected if name in given}}, expected


def _inner(model: Any) -> nn.Module:
    """The model without wrappers of distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _saved_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers that a module itself saves."""
    return [
        (name, tensor.detach())
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None and name not in module._non_persistent_buffers_set
    ]
