"""Letters: N RoIs, C channels (classes and background)."""

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@MODELS.register_module()
class LeanCrossEntropyLoss(CrossEntropyLoss):
    """mmdet's softmax cross entropy in a third of its memory, for very many classes.

    Of a step on float32 logits (N, C) PyTorch's keeps one tensor of their size and makes two more in the backward; this
    one keeps the logits, which are there anyway, and makes only their gradient.

    Args:
        reduction, loss_weight: as of mmdet's ``CrossEntropyLoss``; of its other arguments there is none.

    Shape: logits (N, C) of any floating dtype, labels (N,) in [0, C − 1]; the loss is float32 (float64 for float64).
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(use_sigmoid=False, reduction=reduction, loss_weight=loss_weight)
        self.cls_criterion = lean_cross_entropy


def lean_cross_entropy(
    cls_score: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | None = None,
    ignore_index: int | None = None,
    **unused,
) -> Tensor:
    """``−log softmax(cls_score)`` at ``labels``, weighted and reduced as mmdet does; there is no ``ignore_index``.

    Example:
        >>> lean_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))      # log 4
        tensor(1.3863)
    """
    if ignore_index is not None:
        raise ValueError(f'LeanCrossEntropyLoss knows no ignore_index (got {ignore_index}); take CrossEntropyLoss')
    weight = None if weight is None else weight.float()
    return weight_reduce_loss(SoftmaxNegLog.apply(cls_score, labels), weight, reduction, avg_factor)


class SoftmaxNegLog(Function):
    """``−log softmax(x)[label]``, (N,), of x (N, C); x and (N,) numbers alone are kept."""

    @staticmethod
    def forward(ctx, x: Tensor, labels: Tensor) -> Tensor:
        # the highest logit apart, or the loss would be rounded as coarsely as the logits
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
