"""Expresses the formulas in plain operators, which TorchScript and ONNX have, for a trace; stable and differentiable.

With L = softplus(log λ − κz), −log APA = L/λ, which overflows nowhere.
"""

from torch import Tensor
from torch.nn.functional import softplus

from apa_mmdet.ops.memory_layout import Arguments, against, compute_dtype

from .analytic import fold, input_of


def forward(formula: str, args: Arguments) -> Tensor:
    """As :func:`apa_mmdet.ops.backends.analytic.forward`."""
    folded = fold(args)
    z = input_of(folded).to(compute_dtype(args.x.dtype))
    lambda_, kappa = against(z, folded.lambda_), against(z, folded.kappa)
    neg_log = softplus(lambda_.log() - kappa * z, threshold=50) / lambda_
    if formula == 'neg_log_apa':
        return neg_log.to(args.x.dtype)
    p = (-neg_log).exp()
    return (p if formula == 'apa' else z * p).to(args.x.dtype)
