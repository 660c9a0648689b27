"""Builds what the operators of a CPU need: the kernels, which are otherwise built on first use, and the extension."""

import subprocess
import sys

from . import cpu, cpu_extension

if __name__ == '__main__':
    try:
        print(cpu.build(), cpu_extension.build(), sep='\n')
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(cpu.reason_of(error))
