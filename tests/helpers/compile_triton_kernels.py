"""Compiles the Triton kernels for an H100 in a process without Triton's interpreter; needs no GPU. Prints PTX as JSON."""

import itertools
import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.backends import triton_kernels as kernels

IMAGES = 'grad_ptr', 'x_ptr', 'residual_ptr', 'out_ptr', 'grad_x_ptr', 'grad_residual_ptr'  # of the input's dtype
OPTIONAL = 'residual_ptr', 'grad_residual_ptr', 'scale_ptr', 'shift_ptr', 'residual_scale_ptr'
DTYPES = dict(fp16=True, bf16=False, fp64=True)  # with all optional arguments, or with none


def compile_kernel(name, channels_last, dtype, everything):
    kernel, block = getattr(kernels, name), (128, 8) if channels_last else (2, 512)
    constants = dict(
        FORMULA='aglu',
        LAMBDA_PER_CHANNEL=True,
        KAPPA_PER_CHANNEL=False,
        CHANNELS_LAST=channels_last,
        UNIT=8,
        BLOCK_C=block[0],
        BLOCK_S=block[1],
        ROWS=5 if everything else 2,
    )
    constants.update({} if everything else dict.fromkeys(OPTIONAL))
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature, aligned = {}, {}
    for i, key in enumerate(kernel.arg_names):
        pointer = '*' + (dtype if key in IMAGES or dtype == 'fp64' else 'fp32')
        signature[key] = 'constexpr' if key in constants else pointer if key.endswith('_ptr') else 'i32'
        if signature[key].startswith('*'):
            aligned[i,] = [['tt.divisibility', 16]]
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget('cuda', 90, 32),
        options=dict(num_warps=launcher.WARPS, **launcher.OPTIONS),
    ).asm['ptx']


if __name__ == '__main__':
    cases = itertools.product(('forward_kernel', 'backward_kernel'), (False, True), DTYPES)
    print(json.dumps([[*case, compile_kernel(*case, DTYPES[case[2]])] for case in cases]))
