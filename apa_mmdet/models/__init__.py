from . import activations, backbones, layers, losses, roi_heads, surgery, test_time_augs  # noqa: F401  (registers)
