"""The order of the classes in a classifier."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from apa_mmdet.utils.errors import CodedError

CLASSIFIER = 'head.fc.'


class BadClassOrder(CodedError):
    """Raised when a file does not give the order of the classes of a checkpoint. The message names both.

    Codes: ``no-classifier``, ``not-numbers`` and ``no-permutation``.
    """


def read_class_order(path: str | os.PathLike) -> Tensor:
    """Reads the classes of the data set, whole numbers, in the order of the checkpoint's outputs; shape (C,), int64.

    Raises:
        OSError: if the file cannot be read.
        BadClassOrder: if it holds something else than whole numbers, each once.
    """
    with open(path, encoding='utf-8', errors='replace') as stream:
        words = stream.read(1 << 24).split()
    wrong = next((word for word in words if not (word.isascii() and word.isdecimal() and len(word) < 10)), None)
    if wrong is not None:
        raise BadClassOrder('not-numbers', f'{path}: has to be numbers of classes, one a line, not {wrong[:40]!r}')
    order = torch.tensor([int(word) for word in words], dtype=torch.int64)
    if not torch.equal(order.sort().values, torch.arange(len(order))):
        raise BadClassOrder('no-permutation', f'{path}: has to hold each number from 0 to {len(order) - 1} once')
    return order


def reorder_classifier(weights: Mapping[str, Tensor], order: Tensor, inverse: bool = False) -> dict[str, Tensor]:
    r"""Moves the rows of a classifier: row i of :math:`W` becomes row :math:`\mathrm{order}_i`.

    Args:
        weights: names and values of ``head.fc`` and of others, which stay.
        order: the class of each row, shape (C,).
        inverse: moves row :math:`\mathrm{order}_i` to i.

    Raises:
        BadClassOrder: if there is no classifier of C classes.

    Example:
        >>> weights = {'head.fc.weight': torch.tensor([[1.0], [2.0], [3.0]])}
        >>> reorder_classifier(weights, torch.tensor([2, 0, 1]))['head.fc.weight'].flatten()
        tensor([2., 3., 1.])
    """
    weight = weights.get(f'{CLASSIFIER}weight')
    classes = 0 if weight is None else len(weight)
    if classes != len(order):
        raise BadClassOrder(
            'no-classifier', f'the order is one of {len(order)} classes, the checkpoint has a classifier of {classes}'
        )
    rows = order if inverse else order.argsort()
    return {
        name: value[rows] if name in (f'{CLASSIFIER}weight', f'{CLASSIFIER}bias') else value
        for name, value in weights.items()
    }
