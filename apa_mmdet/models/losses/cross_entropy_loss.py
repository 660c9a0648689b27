"""Letters: N RoIs, C channels (classes and background)."""

from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor

from apa_mmdet.ops.softmax_cross_entropy import SoftmaxNegLog


@MODELS.register_module()
class MemoryEfficientCrossEntropyLoss(CrossEntropyLoss):
    """mmdet's softmax cross entropy in a third of its memory, for very many classes.

    In a step on float32 logits (N, C) PyTorch's loss keeps one tensor of their size and allocates two more in the
    backward; this one keeps the logits, which exist anyway, and allocates only their gradient.

    Args:
        reduction, loss_weight: as of mmdet's ``CrossEntropyLoss``, whose other arguments are not supported.

    Shape: logits (N, C) of any floating dtype, labels (N,) in [0, C − 1]; the loss is float32 (float64 for float64).
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(use_sigmoid=False, reduction=reduction, loss_weight=loss_weight)
        self.cls_criterion = memory_efficient_cross_entropy


def memory_efficient_cross_entropy(
    cls_score: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | None = None,
    ignore_index: int | None = None,
    **unused,
) -> Tensor:
    """``−log softmax(cls_score)`` at ``labels``, weighted and reduced as in mmdet.

    Raises:
        ValueError: with an ``ignore_index``.

    Example:
        >>> import torch
        >>> memory_efficient_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))      # log 4
        tensor(1.3863)
    """
    if ignore_index is not None:
        raise ValueError(
            f'MemoryEfficientCrossEntropyLoss does not support ignore_index={ignore_index}; use CrossEntropyLoss'
        )
    weight = None if weight is None else weight.float()
    return weight_reduce_loss(SoftmaxNegLog.apply(cls_score, labels), weight, reduction, avg_factor)
