"""A limit on the size of files, and names of files in a folder."""

import resource
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def files_no_larger_than(size):
    """The kernel refuses to let a file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    """Files in a folder, without Python's (a config is dumped beside checkpoints)."""
    return sorted(p.name for p in Path(folder).iterdir() if p.is_file() and p.suffix != '.py')
