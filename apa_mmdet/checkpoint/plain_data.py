"""Turns what a run saves into tensors and plain Python values, which every reader takes without running code.

MMEngine's checkpoints hold its logs as objects (HistoryBuffer), NumPy numbers, parts of configs and functions of
schedulers. ``torch.load(weights_only=True)``, the default since torch 2.6, refuses all of these, and so does
MMDetection's ``publish_model.py``.
"""

from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

LOG_HISTORY = {'log_history', 'count_history', 'max_length'}  # arguments of HistoryBuffer


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Replaces the values of a checkpoint that is to be saved; objects of other classes stay what they are.

    The functions of a scheduler are removed: it has them from its config when its state is loaded.
    """
    for key, value in checkpoint.items():
        checkpoint[key] = as_plain(value)
    schedulers = checkpoint.get('param_schedulers', [])
    for states in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        states[:] = [{key: value for key, value in state.items() if not callable(value)} for state in states]


def as_plain(value: Any) -> Any:
    """The value as tensors and plain Python values; the same object where it is that already.

    Example:
        >>> as_plain(dict(score=np.float64(0.5), sizes=(np.arange(2), 3)))
        {'score': 0.5, 'sizes': ([0, 1], 3)}
    """
    if isinstance(value, HistoryBuffer):
        log, count = (torch.from_numpy(np.array(column)) for column in value.data)
        return dict(log_history=log, count_history=count, max_length=int(value.max_length))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return as_plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        pairs = [(as_plain(key), as_plain(part)) for key, part in value.items()]
        same = all(key is old and part is value[old] for (key, part), old in zip(pairs, value))
        kind = OrderedDict if type(value) is OrderedDict else dict
        return value if same and type(value) is kind else kind(pairs)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = [as_plain(part) for part in value]
        sequence = list if isinstance(value, list) else tuple
        return value if type(value) is sequence and all(a is b for a, b in zip(items, value)) else sequence(items)
    return value


def restore_logs(checkpoint: Any) -> None:
    """Gives a checkpoint that was read MMEngine's logs again; those of older checkpoints stay what they are."""
    hub: Any = checkpoint.get('message_hub') if isinstance(checkpoint, dict) else None
    logs: Any = hub.get('log_scalars') if isinstance(hub, dict) else None
    for name, log in list(logs.items()) if isinstance(logs, dict) else ():
        if isinstance(log, dict) and log.keys() == LOG_HISTORY:
            columns = (_column(log[key]) for key in ('log_history', 'count_history'))
            logs[name] = HistoryBuffer(*columns, max_length=log['max_length'])


def _column(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
