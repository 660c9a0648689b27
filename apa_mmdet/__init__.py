"""Adaptive Parametric Activation for MMDetection 3.x.

Importing it registers everything in MMDetection's registries. Where MMDetection is not installed,
``apa_mmdet.ops`` works by itself, on torch alone.
"""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmdet') is not None:
    from . import compat

    compat.check_host_versions()
    compat.mend()

    # registers; only once the host is checked and mended
    from . import datasets, engine, evaluation, models, registry  # noqa: F401

__all__ = ['__version__']
