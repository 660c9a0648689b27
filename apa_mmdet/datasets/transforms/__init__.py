from .loading import LoadPartialMaskAnnotations

__all__ = ['LoadPartialMaskAnnotations']
