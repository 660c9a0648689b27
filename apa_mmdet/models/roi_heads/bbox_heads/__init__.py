from .large_vocabulary_bbox_head import LargeVocabularyBBoxHead

__all__ = ['LargeVocabularyBBoxHead']
