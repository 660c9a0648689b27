from .device_agnostic_fcn_mask_head import DeviceAgnosticFCNMaskHead
from .partially_labeled_mask_head import PartiallyLabeledMaskHead

__all__ = ['DeviceAgnosticFCNMaskHead', 'PartiallyLabeledMaskHead']
