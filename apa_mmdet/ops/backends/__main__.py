"""Builds what the operators of a CPU need: the kernels, which are otherwise built on first use, and the extension."""

import subprocess
import sys

from . import cpu, cpu_extension

try:
    print(cpu.build(), cpu_extension.build(), sep='\n')
except (OSError, ValueError, subprocess.CalledProcessError) as error:
    sys.exit((getattr(error, 'stderr', None) or b'').decode(errors='replace').strip() or str(error))
