from .swap_activations import swap_activations

__all__ = ['swap_activations']
