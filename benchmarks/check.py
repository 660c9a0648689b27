"""Compares the backends on this device with 60-digit arithmetic."""

import math

import measure
import torch
from torch import Tensor

from apa_mmdet import ops

TRUTH = measure.ROOT / 'tests/data/apa_truth.npz'
# error / max(1, |truth|), in half precision the distance from the rounded truth in units in the last place
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1, torch.float16: 1}


def serving(z: Tensor) -> list[str]:
    """Returns the backends that serve such a tensor, the default one first."""
    return [name for name, backend in ops.backends().items() if backend.serves(z)]


def check(device: torch.device) -> bool:
    """Whether every backend agrees with 60-digit arithmetic; prints the worst error of every column."""
    import numpy as np

    with np.load(TRUTH) as stored:
        truth = {str(name): torch.from_numpy(stored['rows'][:, i].copy()) for i, name in enumerate(stored['columns'])}
    fine = True
    for dtype in TOLERANCE:
        for backend in serving(torch.empty(1, dtype=dtype, device=device)):
            for name in ('apa', 'aglu'):
                fine &= check_columns(name, truth, dtype, device, backend)
    return fine


def check_columns(name: str, truth: dict[str, Tensor], dtype: torch.dtype, device: torch.device, backend: str) -> bool:
    columns = (name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa')
    z, lambda_, kappa = (truth[column] for column in ('z', 'lam', 'kappa'))
    wanted = [truth[column] for column in columns]
    if dtype.itemsize == 2:  # exact for the rounded z, computed in float64, which was checked before
        z, kappa = z.to(dtype).double(), kappa.float().double()
        lambda_ = lambda_.float().double().clamp(min=ops.LAMBDA_FLOOR)  # the floor in float32 is just below it
        with ops.use_backend('analytic'):
            wanted = value_and_derivatives(name, z, lambda_, kappa)
    parameter_dtype = dtype if dtype == torch.float64 else torch.float32
    inputs = z.to(device, dtype), lambda_.to(device, parameter_dtype), kappa.to(device, parameter_dtype)
    with ops.use_backend(backend):
        got = value_and_derivatives(name, *inputs)
    fine = True
    for column, tensor, want in zip(columns, got, wanted):
        worst, limit = worst_error(tensor.cpu(), want), TOLERANCE[tensor.dtype]
        fine &= worst <= limit
        unit = 'ulp' if tensor.dtype.itemsize == 2 else '   '
        print(
            f'  {backend:<9} {measure.name_of(dtype):<9} {column:<12} {worst:8.1e} {unit}'
            f'{"" if worst <= limit else f"  FAILED, more than {limit:g}"}',
            flush=True,
        )
    return fine


def value_and_derivatives(name: str, z: Tensor, lambda_: Tensor, kappa: Tensor) -> tuple[Tensor, ...]:
    """Computes every row as a channel with its own λ and κ."""
    inputs = [tensor.clone().requires_grad_() for tensor in (z, lambda_, kappa)]
    out = getattr(ops, name)(inputs[0][None], *inputs[1:])[0]
    return (out.detach(), *torch.autograd.grad(out, inputs, torch.ones_like(out)))


def worst_error(got: Tensor, want: Tensor) -> float:
    """Returns the largest error / max(1, |exact value|); in half precision, the steps from the rounded exact value.

    There, errors that float32 may have do not count: near zero, half-precision numbers are closer together than that.
    """
    if not got.isfinite().all():
        return math.inf
    error = (got.double() - want).abs() / want.abs().clamp(min=1)
    if got.dtype.itemsize > 2:
        return error.max().item()
    distance = (steps_from_zero(got) - steps_from_zero(want.to(got.dtype))).abs()
    return distance.where(error > TOLERANCE[torch.float32], 0).max().item()


def steps_from_zero(half: Tensor) -> Tensor:
    """Returns how many numbers of the dtype are between zero and each number, negative below zero."""
    bits = half.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
