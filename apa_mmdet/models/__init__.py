from . import activations, backbones, layers, losses, roi_heads, surgery  # noqa: F401  (registers)
