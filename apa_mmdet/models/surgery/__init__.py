from .errors import MESSAGES, SwapError
from .swap_activations import swap_activations

__all__ = ['MESSAGES', 'SwapError', 'swap_activations']
