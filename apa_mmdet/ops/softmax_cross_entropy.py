import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class SoftmaxNegLog(Function):
    """``−log softmax(x)[label]``, (N,), of x (N, C); backward keeps x and (N,) numbers."""

    @staticmethod
    def forward(ctx, x: Tensor, labels: Tensor) -> Tensor:
        # the highest logit is subtracted first, or the loss would be rounded as coarsely as the logits
        top = x.amax(1, keepdim=True).to(torch.promote_types(x.dtype, torch.float32))
        log_sum = torch.sub(x, top).exp_().sum(1, keepdim=True).log_()
        ctx.save_for_backward(x, labels, top, log_sum)
        return (log_sum - (x.gather(1, labels[:, None]) - top)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, labels, top, log_sum = ctx.saved_tensors
        p = torch.sub(x, top).sub_(log_sum).exp_()
        p.scatter_add_(1, labels[:, None], -torch.ones_like(log_sum))
        return p.mul_(grad[:, None]).to(x.dtype), None
