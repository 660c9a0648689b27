"""Builds what the operators need: a CPU's kernels, which are otherwise built on first use, and the extensions."""

import importlib.util
import subprocess
import sys

from . import cpu, cpu_extension

if __name__ == '__main__':
    try:
        print(cpu.build(), cpu_extension.build(), sep='\n')
        if importlib.util.find_spec('triton'):
            from . import triton_extension

            print(triton_extension.build())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(cpu.reason_of(error))
