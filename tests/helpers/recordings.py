"""Figures recorded from the published implementations, and the rule that gave both sides the same weights."""

import re
import zlib

import numpy as np
from helpers.paths import DATA


def load(name):
    """The arrays of ``tests/data/<name>``."""
    with np.load(DATA / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def image(shape, salt=0):
    """The input of a recording."""
    return np.random.default_rng([12345, salt]).normal(0, 1, shape).astype(np.float32)


def value(key, shape, salt=0):
    """The value that the parameter published as ``key`` had in a recording."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), salt])
    leaf, shape = key.split('.')[-1], tuple(shape)
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    if leaf in ('tempearture', 's_', 'scale'):
        drawn = np.full(shape, 4.5)
    elif leaf in ('running_var', 'g') or (leaf == 'weight' and len(shape) < 2):
        drawn = rng.uniform(0.5, 1.5, shape)
    elif leaf == 'lambda_param':
        drawn = rng.uniform(0.05, 1.0, shape)
    elif leaf == 'kappa_param':
        drawn = rng.uniform(*((-1, 0) if re.search('[.]se[.]|uni?act[.]', key) else (1, 1.3)), shape)
    elif leaf != 'running_mean' and len(shape) >= 2:
        drawn = rng.normal(0, (1.6 / np.prod(shape[1:])) ** 0.5, shape)
    else:
        drawn = rng.normal(0, 0.1, shape)
    return drawn.astype(np.float32)
