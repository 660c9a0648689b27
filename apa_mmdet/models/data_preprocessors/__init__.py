from .padding_aware_preprocessor import PaddingAwareDetDataPreprocessor

__all__ = ['PaddingAwareDetDataPreprocessor']
