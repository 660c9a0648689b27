from .bbox_heads import LargeVocabularyBBoxHead
from .mask_heads import DeviceAgnosticFCNMaskHead, PartiallyLabeledMaskHead

__all__ = ['DeviceAgnosticFCNMaskHead', 'LargeVocabularyBBoxHead', 'PartiallyLabeledMaskHead']
