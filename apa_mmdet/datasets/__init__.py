from .optional_masks import LoadOptionalMasks

__all__ = ['LoadOptionalMasks']
