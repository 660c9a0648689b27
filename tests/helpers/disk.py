"""A limit on the size of files, a folder that cannot be written, and names of files in a folder."""

import ctypes
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


@contextmanager
def not_writable(folder):
    """Nothing can be created in the folder, not even by root, who loses the capability to override permissions."""
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    effective, mode = sets[0], folder.stat().st_mode
    folder.chmod(0o555)
    sets[0] &= ~(1 << 1)  # CAP_DAC_OVERRIDE of this thread
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = effective
        libc.capset(header, sets)
        folder.chmod(mode)
