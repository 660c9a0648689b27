from . import (
    activations,
    backbones,
    calibration,
    data_preprocessors,
    dense_heads,
    layers,
    losses,
    roi_heads,
    surgery,
    test_time_augs,
)

__all__ = [
    'activations',
    'backbones',
    'calibration',
    'data_preprocessors',
    'dense_heads',
    'layers',
    'losses',
    'roi_heads',
    'surgery',
    'test_time_augs',
]
