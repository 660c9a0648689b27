from .errors import SwapError
from .swap_activations import swap_activations

__all__ = ['SwapError', 'swap_activations']
