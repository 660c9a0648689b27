from .bbox_heads import LargeVocabularyBBoxHead
from .mask_heads import PartiallyLabeledMaskHead

__all__ = ['LargeVocabularyBBoxHead', 'PartiallyLabeledMaskHead']
