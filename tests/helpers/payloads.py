"""Pickles that call something when they are read, or set attributes."""

import argparse
import codecs
import os
import pickle
import subprocess
import tempfile
from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

RECONSTRUCT, SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]


class Does:
    """A pickle that calls something, and may then fill in the result."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def leaves_a_mark(mark):
    """Something to be called with nothing, and the call."""
    return os.system, (f'touch {mark}',)


def hidden_payloads(mark):
    """Name: a value that runs ``touch mark`` when it is unpickled."""
    call = Does(*leaves_a_mark(mark))
    return {
        'system': call,
        'eval': Does(eval, (f'open({str(mark)!r}, "w")',)),
        'exec': Does(exec, (f'open({str(mark)!r}, "w")',)),
        'popen': Does(subprocess.Popen, (['touch', str(mark)],)),
        'later': Does(map, (os.system, [f'touch {mark}'])),
        'looked up': [Does(getattr, (np.ndarray, 'tofile')), call],
        'in a log': Does(HistoryBuffer, (), dict(_statistics_methods=dict(mean=call))),
        'in arguments': Does(argparse.Namespace, (), dict(lr=call)),
        'as a dtype': Does(RECONSTRUCT, (np.ndarray, (0,), b'b'), (1, (1,), call, False, b'1')),
        'as an array': Does(RECONSTRUCT, (subprocess.Popen, (['touch', str(mark)],), b'b')),
        'as a key': {Does(*leaves_a_mark(mark)): 1},
        'as an encoding': Does(codecs.encode, ('a', call)),
        'as an ordered dict': Does(OrderedDict, ([(call, 1)],)),
        'as a state': Does(HistoryBuffer, (), (None, dict(__class__=call))),
        'as a tensor': Does(torch._utils._rebuild_tensor_v2, (call, 0, (1,), (1,), False, OrderedDict())),
    }


class WithAttributes:
    """A pickle of ``value`` on which attributes are set."""

    def __init__(self, value, **attributes):
        self.reduced = (*value.__reduce_ex__(2)[:2], attributes)

    def __reduce__(self):
        return self.reduced


def reads_its_own_checkpoints(load):
    """Whether a loader of paths reads logs and NumPy numbers, as MMEngine saves them."""
    with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        torch.save(dict(log=HistoryBuffer([1.0], [1]), lr=np.float64(0.5)), file.name)
        try:
            load(file.name, 'cpu')
        except pickle.UnpicklingError:
            return False
    return True
