"""Finds where a package makes the host wait for a GPU; the operators that do are the same on a CPU."""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

import apa_mmdet

# operators whose result, or its shape, the host reads
READS = {
    f'aten::{name}'
    for name in [
        '_local_scalar_dense',
        'equal',
        'is_nonzero',
        'nonzero',
        'nonzero_numpy',
        'masked_select',
        '_unique',
        '_unique2',
        'unique_dim',
        'unique_consecutive',
        'unique_dim_consecutive',
        'bincount',
        'repeat_interleave',
        'allclose',
    ]
}
METHODS = {
    f'torch.Tensor.{name}': name
    for name in [
        'cpu',
        'cuda',
        'numpy',
        'tolist',
        'item',
        '__array__',
        '__bool__',
        '__int__',
        '__float__',
        '__index__',
        '__contains__',
    ]
}
# functions of torch and the host that are called in place of torch's own
TRANSPARENT = '/torch/', '/mmengine/structures/', '/mmengine/dist/', '/mmcv/ops/', '/mmdet/models/losses/utils.py'


class HostWaits:
    """A context that lists in ``found`` each wait: file below the package, function, operator or method.

    Of the calls behind a wait the innermost one outside ``TRANSPARENT`` counts, and only if it lies in ``package``.
    Copies to another device look like none on a CPU, so every ``.to(device)`` without ``non_blocking`` counts, and
    every tensor that is made of Python numbers on a device. What runs inside a registered operator is not seen.
    """

    def __init__(self, package=Path(apa_mmdet.__file__).parent):
        self.package = f'{package}/'
        self.found = []
        self.modes = _Dispatched(self), _Called(self)

    def __enter__(self):
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)

    def record(self, what):
        frame = sys._getframe(2)
        while frame and (frame.f_code.co_filename == __file__ or _is_transparent(frame.f_code.co_filename)):
            frame = frame.f_back
        if frame and frame.f_code.co_filename.startswith(self.package):
            self.found.append((frame.f_code.co_filename[len(self.package) :], frame.f_code.co_name, what))


def _is_transparent(file):
    return any(part in file for part in TRANSPARENT)


class _Dispatched(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in READS or _indexes_by_mask(name, args):
            self.waits.record(name.removeprefix('aten::'))
        return func(*args, **(kwargs or {}))


def _indexes_by_mask(name, args):
    """Whether the number of true values decides: of an assignment it does not if it is of one value."""
    if name not in ('aten::index', 'aten::index_put', 'aten::index_put_') or (len(args) > 2 and args[2].numel() == 1):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


class _Called(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = resolve_name(func)
        if name in METHODS:
            self.waits.record(METHODS[name])
        elif name == 'torch.Tensor.to' and _is_blocking_copy(*args[1:], **kwargs):
            self.waits.record('to')
        elif name in ('torch.tensor', 'torch.as_tensor') and kwargs.get('device') is not None:
            self.waits.record(name.removeprefix('torch.'))
        return func(*args, **kwargs)


def _is_blocking_copy(*args, device=None, non_blocking=False, other=None, **_):
    target = [device, other, *args]
    return not non_blocking and any(isinstance(value, (str, torch.device, Tensor)) for value in target)
