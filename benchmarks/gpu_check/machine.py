"""Describes this machine, and measures the bandwidth of a copy and the rate of a matrix product on its GPU.

python benchmarks/gpu_check/machine.py OUT
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

COPY = 2**30  # bytes of a tensor, many times the cache
SIDE = 8192  # of a square matrix


def milliseconds(call, rounds: int = 10) -> float:
    """Returns the median of the call's times on the GPU."""
    times = []
    for i in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times += [start.elapsed_time(end)] * (i >= 3)
    return sorted(times)[len(times) // 2]


def described() -> dict[str, str]:
    lines = {
        'date': time.strftime('%Y-%m-%d %H:%M %Z'),
        'python': platform.python_version(),
        'torch': f'{torch.__version__}, CUDA {torch.version.cuda}',
        'host': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores',
    }
    try:
        import triton

        lines['triton'] = triton.__version__
    except ImportError:
        lines['triton'] = 'not installed'
    nvcc = shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    if os.path.exists(nvcc):
        says = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
        lines['nvcc'] = says.partition('release ')[2].partition(',')[0]
    if not torch.cuda.is_available():
        return lines | {'GPU': 'none'}
    properties = torch.cuda.get_device_properties(0)
    lines['GPU'] = (
        f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} SMs'
    )
    smi = 'driver_version,clocks.sm,clocks.mem,power.limit'
    if shutil.which('nvidia-smi'):
        query = ['nvidia-smi', f'--query-gpu={smi}', '--format=csv,noheader']
        lines['driver, SM clock, memory clock, power'] = subprocess.run(
            query, capture_output=True, text=True
        ).stdout.strip()
    source = torch.randint(0, 255, (COPY,), dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    lines['copy'] = f'{2 * COPY / milliseconds(lambda: target.copy_(source)) / 1e6:.0f} GB/s, read and written'
    left, right = (torch.randn(SIDE, SIDE, device='cuda', dtype=torch.bfloat16) for _ in range(2))
    lines['bfloat16 product'] = f'{2 * SIDE**3 / milliseconds(lambda: left @ right) / 1e9:.0f} TFLOP/s'
    return lines


if __name__ == '__main__':
    text = '\n'.join(f'{name}: {value}' for name, value in described().items())
    print(text)
    Path(sys.argv[1], 'machine.txt').write_text(text + '\n')
