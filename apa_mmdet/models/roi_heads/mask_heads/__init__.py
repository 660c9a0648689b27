from .partially_labeled_mask_head import PartiallyLabeledMaskHead

__all__ = ['PartiallyLabeledMaskHead']
