from .padding_aware_rpn_head import PaddingAwareRPNHead

__all__ = ['PaddingAwareRPNHead']
