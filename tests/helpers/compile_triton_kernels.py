"""Compiles the Triton kernels for an H100 in a process without Triton's interpreter; needs no GPU. Prints JSON.

The variants are those of ``CASES``; for each its name, the instructions and, from ptxas, the bytes of spilled registers.
"""

import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.backends import triton_kernels as kernels

IMAGES = 'grad_ptr', 'x_ptr', 'residual_ptr', 'out_ptr', 'grad_x_ptr', 'grad_residual_ptr'  # of the input's dtype
NORM = 'mean_ptr', 'var_ptr', 'weight_ptr', 'bias_ptr', 'to_weight_ptr', 'to_bias_ptr'
RESIDUAL = 'residual_ptr', 'grad_residual_ptr', 'gate_ptr', 'to_gate_ptr'
RESIDUAL_NORM = (
    'residual_mean_ptr',
    'residual_var_ptr',
    'residual_weight_ptr',
    'residual_bias_ptr',
    'to_residual_weight_ptr',
    'to_residual_bias_ptr',
)
# what a site has beside x, λ and κ: nothing, as a gate; a norm; what ends a block, and what ends the first one of a stage
SITES = dict(gate=(), norm=NORM, out=(*NORM, *RESIDUAL), out_downsample=(*NORM, *RESIDUAL, *RESIDUAL_NORM))
OPTIONAL = (*SITES['out_downsample'], 'partials_ptr')
CASES = [
    *itertools.product(
        ('forward_kernel', 'backward_kernel'), (False, True), ('fp16', 'bf16', 'fp64'), ('out_downsample',)
    ),
    *itertools.product(('forward_kernel', 'backward_kernel'), (False, True), ('bf16',), ('gate', 'norm', 'out')),
    *itertools.product(('finish_kernel',), (False,), ('fp32', 'fp64'), SITES),
]


def compile_kernel(name, channels_last, dtype, site):
    kernel, block = getattr(kernels, name), (128, 8) if channels_last else (8, 128)
    given = SITES[site]
    rows = 2 * ('weight_ptr' in given) + ('residual_weight_ptr' in given)
    constants = dict(
        FORMULA='aglu',
        LAMBDA_PER_CHANNEL=False,
        KAPPA_PER_CHANNEL=False,
        CURVE_PER_CHANNEL=False,
        AFFINE='weight_ptr' in given,
        RESIDUAL_AFFINE='residual_weight_ptr' in given,
        EPS=1e-5,
        RESIDUAL_EPS=1e-5,
        CHANNELS_LAST=channels_last,
        UNIT=8,
        BLOCK_C=launcher.FINISH_CHANNELS if name == 'finish_kernel' else block[0],
        BLOCK_S=block[1],
        ROWS=rows,
        BLOCK_R=launcher.FINISH_SPANS,
        BLOCK=launcher.FINISH_PROGRAMS,
    )
    constants.update((key, None) for key in OPTIONAL if key not in (*given, *['partials_ptr'] * bool(rows)))
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature, aligned = {}, {}
    for i, key in enumerate(kernel.arg_names):
        pointer = '*' + (dtype if key in IMAGES or dtype == 'fp64' else 'fp32')
        signature[key] = 'constexpr' if key in constants else pointer if key.endswith('_ptr') else 'i32'
        if signature[key].startswith('*'):
            aligned[i,] = [['tt.divisibility', 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget('cuda', 90, 32),
        options=dict(num_warps=launcher.WARPS, **launcher.OPTIONS),
    )
    return compiled.asm['ptx'], spilled(compiled.asm['ptx'])


def spilled(ptx):
    """Bytes of registers that ptxas spills."""
    ptxas = Path(triton.__file__).parent / 'backends/nvidia/bin/ptxas'
    with tempfile.NamedTemporaryFile('w', suffix='.ptx') as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, '-v', '--gpu-name=sm_90a', file.name, '-o', '/dev/null']
        text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return sum(map(int, re.findall(r'(\d+) bytes spill', text)))


if __name__ == '__main__':
    print(json.dumps([[*case, *compile_kernel(*case)] for case in CASES]))
