from . import activations, backbones, layers, losses, roi_heads  # noqa: F401  (registers)
