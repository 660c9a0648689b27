from .class_frequency import load_class_frequency
from .drop_loss import DropLoss
from .links import LINKS, APALink, GumbelLink, SigmoidLink, build_link

__all__ = ['APALink', 'DropLoss', 'GumbelLink', 'LINKS', 'SigmoidLink', 'build_link', 'load_class_frequency']
