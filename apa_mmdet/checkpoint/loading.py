"""Loads checkpoints that fit the model, name for name as its modules take them; refuses the others."""

import os
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from apa_mmdet.utils.model import unwrap_model

from .as_taken import load_as_taken
from .compare import check_fit, misfit, not_given
from .io import find_weights
from .pretrained import warn_of_ignored, warn_of_rest
from .scheme import SCHEME, data_only

CONFIG = 'the model of the config'


def load_whole(model: nn.Module, checkpoint: dict, path: str, name: str = CONFIG) -> None:
    """Loads a checkpoint that has to have every weight of the model, as for testing and resuming.

    Weights of modules that the model does not have, such as those of a head that only training uses, are ignored; those
    inside its modules are not: without them, as with another activation, a module computes something else.

    Args:
        model: where the weights go.
        checkpoint: content of the file.
        path: what errors call it.
        name: what they call the model.

    Raises:
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they do not fit.
    """
    taken = load_as_taken(model, find_weights(checkpoint, path)[0])
    found = check_fit(taken.weights, taken.expected, path, name, ignore=('type', 'unexpected'))
    lost = [key for key in taken.inside(found['unexpected']) if _decides(key, taken.weights[key])]
    if lost:
        raise misfit(dict(unexpected=lost), path, name)


def _decides(key: str, tensor: Tensor) -> bool:
    """Whether what the module computes depends on a weight; not on the counters of norms, nor on those of losses."""
    is_count_of_loss = key.split('.')[-2].startswith('loss')  # of EQLV2Loss: only training needs them
    return tensor.is_floating_point() and not is_count_of_loss


def load_start(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Loads a checkpoint from which a training starts: some weights may be new, such as those of other classes.

    Warnings name the weights that stay as they are, those of them that are frozen, and weights that layers of this
    model ignore. Arguments as of :func:`load_whole`.

    Raises:
        BadCheckpoint: if it holds no weights.
        WrongWeights: if they are those of another network, or not finite.
    """
    taken = load_as_taken(model, find_weights(checkpoint, path)[0])
    ignore = ('missing', 'shape', 'type', 'unexpected')
    found = check_fit(taken.weights, taken.expected, path, CONFIG, ignore)
    warn_of_rest(unwrap_model(model), not_given(found), path, 'as initialized')
    warn_of_ignored(taken.inside(found['unexpected']), path)


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
