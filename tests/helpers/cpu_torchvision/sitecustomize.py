"""Makes the torchvision of the index, a CUDA build, importable beside a CPU torch, for a process with this on its path.

Its compiled operators do not load there, and registering their meta kernels fails unless their schemas exist.
"""

import sys
from importlib.abc import MetaPathFinder

BOXES = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'


class BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == 'torchvision':
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                for operator in ('nms', 'qnms'):
                    torch.library.define(f'torchvision::{operator}', BOXES)


sys.meta_path.insert(0, BeforeTorchvision())
