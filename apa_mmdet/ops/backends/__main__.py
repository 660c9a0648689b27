"""Builds what the operators need: a CPU's kernels, which are otherwise built on first use, and the extensions.

Where there is a GPU, the one for its kernels is then tested on it, and used from then on. Nothing is built where no
folder keeps it.
"""

import importlib.util
import subprocess
import sys

import torch

from . import cpu, cpu_extension

if __name__ == '__main__':
    try:
        cpu.writable_home_folder()
        print(cpu.build(), cpu_extension.build(), sep='\n')
        if importlib.util.find_spec('triton'):
            from . import triton_extension

            print(triton_extension.build(), flush=True)
            if torch.cuda.is_available():
                sys.exit(subprocess.run([sys.executable, '-m', 'apa_mmdet.ops.self_test']).returncode)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(cpu.reason_of(error))
