"""Adaptive Parametric Activation for MMDetection 3.x.

Importing it registers everything in MMDetection's registries. Where MMDetection is not installed,
``apa_mmdet.ops`` works by itself, on torch alone.
"""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmdet') is not None:
    from . import compat

    compat.check_host_versions()
    compat.check_mmcv_operators()
    compat.restore_np_float_for_lvis()
    compat.let_lvis_read_images_without_annotations()

    # registers; only once the host is checked and fixed
    from . import datasets, engine, evaluation, models, registry, visualization  # noqa: F401
    from .checkpoint.io import load_as_data

    compat.let_mmengine_read_its_checkpoints(load_as_data)

__all__ = ['__version__']
