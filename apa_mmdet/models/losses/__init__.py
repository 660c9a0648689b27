from .class_frequency import load_class_frequency
from .drop_loss import DropLoss
from .lean_cross_entropy import LeanCrossEntropyLoss
from .links import LINKS, APALink, GumbelLink, SigmoidLink, build_link

__all__ = [
    'LINKS',
    'APALink',
    'DropLoss',
    'GumbelLink',
    'LeanCrossEntropyLoss',
    'SigmoidLink',
    'build_link',
    'load_class_frequency',
]
