"""Compares an elementwise function with its formula under autograd, in float64.

The tolerance of a parameter's gradient follows from the terms that are summed: rounding errors do not cancel where the
terms do, and a bound on the sum alone would be met on one processor and missed on another.
"""

import torch

LAYOUTS = {
    'contiguous': lambda x: x,
    'channels_last': lambda x: x.to(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'strided': lambda x: torch.cat([x, x], 3)[..., ::2],
    'expanded': lambda x: x[..., :1].expand(x.shape),
}


def spread(parameter, x):
    """A parameter of shape (), (1,), (C,), (N, C) or that of ``x``, shaped to broadcast against ``x``."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - max(2, parameter.dim())))


def assert_agrees(function, formula, x, parameters, tolerance, grad=None):
    """Compares value and gradients of ``function(x, **parameters)`` with ``formula`` in float64.

    Args:
        parameters: tensors by name, of any shape that :func:`spread` takes.
        tolerance: of the value and of the gradient to a tensor, relative to each element or to 1, whichever is greater;
            of the gradient to a parameter, relative to the sum of the absolute terms, each at least that of ``grad``.
        grad: of the value; by default numbers from −1 to 1.

    Returns:
        The value.
    """
    inputs = [t.detach().requires_grad_() for t in (x, *parameters.values())]  # detach keeps the strides
    value = function(inputs[0], **dict(zip(parameters, inputs[1:])))
    if grad is None:
        grad = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).to(value.dtype).view_as(value)
    gradients = torch.autograd.grad(value, inputs, grad)

    exact = [spread(t.detach().double(), x).expand_as(x).clone().requires_grad_() for t in (x, *parameters.values())]
    want = formula(exact[0], **dict(zip(parameters, exact[1:])))
    terms = torch.autograd.grad(want, exact, grad.double())

    assert value.shape == x.shape and value.dtype == x.dtype
    assert_close('value', value.detach(), want.detach(), tolerance)
    for name, tensor, got, term in zip(('x', *parameters), inputs, gradients, terms):
        assert got.shape == tensor.shape and got.dtype == tensor.dtype, name
        if tensor.shape == x.shape:
            assert_close(f'gradient to {name}', got, term, tolerance)
            continue
        shape = spread(tensor, x).shape
        error = (got.double().reshape(shape) - term.sum_to_size(shape)).abs()
        bound = tolerance * term.abs().maximum(grad.abs()).sum_to_size(shape)
        assert (error <= bound).all(), f'gradient to {name}: an error of {error.max():.1e}'
    return value


def assert_close(name, got, want, tolerance):
    error = (got.double() - want).abs()
    assert (error <= tolerance * want.abs().clamp(min=1)).all(), f'{name}: an error of {error.max():.1e}'
