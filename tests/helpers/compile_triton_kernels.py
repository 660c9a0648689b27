"""Compiles the Triton kernels for an H100 in a process without Triton's interpreter; needs no GPU. Prints JSON.

The variants are those of ``CASES``, with ``--all`` of ``ALL_CASES``. Of each: its name, the widest load and store of PTX, and of the machine code the
number of accesses to spilled registers and of instructions in the longest loop, divided by the elements of a thread there;
and the types of its parameters, with those that a launch from C++ gives it.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.memory_layout import Layout

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
DTYPES = dict(fp16='float16', bf16='bfloat16', fp32='float32', fp64='float64')
OPTIONAL = (*SITES['out_downsample'], 'partials_ptr')
CASES = [  # kernel, channels_last, dtype, site
    ('forward_kernel', False, 'bf16', 'out_downsample'),
    ('backward_kernel', False, 'bf16', 'out_downsample'),
    ('backward_kernel', True, 'bf16', 'norm'),
    ('finish_kernel', False, 'fp32', 'out_downsample'),
]
ALL_CASES = [
    *itertools.product(('forward_kernel', 'backward_kernel'), (False, True), ('fp16', 'bf16', 'fp32', 'fp64'), SITES),
    *itertools.product(('finish_kernel',), (False,), ('fp32', 'fp64'), SITES),
]


def compile_kernel(name, channels_last, dtype, site):
    kernel, given = getattr(launcher, name), SITES[site]
    size = launcher.tile_size(getattr(torch, DTYPES[dtype]))
    block = launcher.tiling_of(Layout(2, 256, 800, channels_last), size)[:2]
    rows = 2 * ('weight_ptr' in given) + ('residual_weight_ptr' in given)
    constants = dict(
        FORMULA='aglu',
        HALF=dtype in ('fp16', 'bf16'),
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
    code = machine_code(compiled.asm['cubin'])
    return dict(
        parameters=re.findall(r'\.param \.(\w+)', compiled.asm['ptx'].partition('.entry')[2].partition(')')[0]),
        # None is compiled away, and two pointers that these kernels do not use come last
        expected=[{'i': 'u32', '*': 'u64'}[kind[0]] for kind in signature.values() if kind != 'constexpr']
        + ['u64'] * 2,
        load=widest('ld', compiled.asm['ptx']),
        store=widest('st', compiled.asm['ptx']),
        spills=sum(bool(re.search(r'\b(STL|LDL)\b', line)) for line in code),
        per_element=longest_loop(code) / (block[0] * block[1] / (32 * launcher.WARPS)),  # of finish_kernel: no meaning
    )


def widest(access, ptx):
    """Bytes of the widest access to global memory."""
    found = re.findall(rf'{access}\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)', ptx)
    return max(int(count or 1) * int(bits) // 8 for count, bits in found)


def machine_code(cubin):
    """The lines of labels and instructions."""
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/nvdisasm'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, '-c', file.name], check=True, capture_output=True, text=True).stdout
    return [line.strip() for line in text.splitlines() if re.match(r'\s*(\.L\w+:|/\*[0-9a-f]{4,}\*/)', line)]


def longest_loop(code):
    """Instructions between a label and the branch back to it."""
    starts, count, longest = {}, 0, 0
    for line in code:
        if line.startswith('.L'):
            starts[line.rstrip(':')] = count
            continue
        count += 1
        target = re.search(r'BRA.*`\((\.L\w+)\)', line)
        if target and target[1] in starts:
            longest = max(longest, count - starts[target[1]])
    return longest


if __name__ == '__main__':
    print(json.dumps([[*case, compile_kernel(*case)] for case in (ALL_CASES if '--all' in sys.argv else CASES)]))
