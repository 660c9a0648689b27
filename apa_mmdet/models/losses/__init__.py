from .cross_entropy_loss import MemoryEfficientCrossEntropyLoss
from .drop_loss import DropLoss
from .eqlv2_loss import BBoxHeadEQLV2Loss
from .links import LINKS, APALink, GumbelLink, SigmoidLink, build_link

__all__ = [
    'LINKS',
    'APALink',
    'BBoxHeadEQLV2Loss',
    'DropLoss',
    'GumbelLink',
    'MemoryEfficientCrossEntropyLoss',
    'SigmoidLink',
    'build_link',
]
