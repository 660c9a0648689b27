from .cross_entropy_loss import MemoryEfficientCrossEntropyLoss
from .drop_loss import DropLoss
from .links import LINKS, APALink, GumbelLink, SigmoidLink, build_link

__all__ = ['LINKS', 'APALink', 'DropLoss', 'GumbelLink', 'MemoryEfficientCrossEntropyLoss', 'SigmoidLink', 'build_link']
