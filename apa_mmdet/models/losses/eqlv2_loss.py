"""Letters: N RoIs in the batch, C classes. Labels 0 … C − 1 are classes, label C is background, the last channel."""

import torch
import torch.nn.functional as F
from mmdet.models.losses import EQLV2Loss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmengine.dist import all_reduce
from torch import Tensor

from apa_mmdet.ops.memory_layout import compute_dtype


@MODELS.register_module()
class BBoxHeadEQLV2Loss(EQLV2Loss):
    """mmdet's ``EQLV2Loss`` with what a ``BBoxHead`` asks of its loss: channels, scores and accuracy.

    For p = σ(x) and one-hot targets t of all C + 1 channels,

        loss = Σᵢ Σ_c w_ic · BCE(p_ic, t_ic) / N
        w_ic = f(g_c) where t_ic = 0,  1 + α·(1 − f(g_c)) where t_ic = 1,      f(g) = 1/(1 + exp(−γ·(g − μ)))

    and 1 for background. g_c is the sum over all steps of |w·∂BCE/∂x| of the positive terms of a class over that of the
    negative ones, 100 at the start. The score of a class is p_c·(1 − p_background).

    A ``BBoxHead`` scores mmdet's own by a softmax. Besides, this one sums g_c over all processes, so that each has the
    same and a checkpoint resumes all of them; counts nothing outside of training, nor what is not finite, which would
    stay in g_c for good; and keeps no logits after a step. Its buffers are mmdet's, and its values are in one process.

    Source: Tan et al., *Equalization Loss v2*, CVPR 2021, arXiv:2012.08548.

    Args:
        num_classes: C.
        mu, alpha, gamma: μ, α, γ.
        test_with_obj: False omits the factor 1 − p_background.
        reduction: ``mean`` (over N or ``avg_factor``), ``sum``, or ``none`` for the sums over the channels, (N,).
        loss_weight: factor of the loss.

    Example:
        >>> loss = BBoxHeadEQLV2Loss(2)
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))      # 3·log 2: all weights are 1 at the start
        tensor(2.0794)
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def __init__(
        self,
        num_classes: int,
        mu: float = 0.8,
        alpha: float = 4.0,
        gamma: int = 12,
        test_with_obj: bool = True,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            mu=mu,
            alpha=alpha,
            gamma=gamma,
            test_with_obj=test_with_obj,
            reduction=reduction,
            loss_weight=loss_weight,
        )

    def get_cls_channels(self, num_classes: int) -> int:
        """Width of the classifier, C + 1. Raises ValueError if the head has another number of classes than the loss."""
        if num_classes != self.num_classes:
            raise ValueError(
                f'BBoxHeadEQLV2Loss has num_classes={self.num_classes}, but its head num_classes={num_classes}'
            )
        return num_classes + 1

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores at test time, (N, C + 1)."""
        p = cls_score.to(compute_dtype(cls_score.dtype)).sigmoid()
        classes, background = p[..., :-1], p[..., -1:]
        return torch.cat([classes * (1 - background) if self.test_with_obj else classes, background], dim=-1)

    @torch.no_grad()
    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``acc_classes``: percentage of the foreground RoIs whose highest class is theirs; 0 without any."""
        hits = (cls_score[:, :-1].argmax(1) == labels).sum()  # background equals none
        return dict(acc_classes=100.0 * hits / (labels < self.num_classes).sum().clamp(min=1))

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            cls_score: logits, (N, C + 1), of any floating dtype; the loss is float32.
            label: (N,), integers in [0, C].
            weight: (N,), a weight for each RoI.
            avg_factor: divides the sum instead of N.
            reduction_override: replaces ``reduction``.

        Raises:
            ValueError: if the logits have another number of channels.
        """
        if cls_score.dim() != 2 or cls_score.size(1) != self.num_classes + 1:
            raise ValueError(
                f'BBoxHeadEQLV2Loss expects logits (N, {self.num_classes + 1}), got {tuple(cls_score.shape)}'
            )
        x = cls_score.to(compute_dtype(cls_score.dtype))
        target = torch.zeros_like(x, requires_grad=False).scatter_(1, label[:, None], 1)
        of_negatives = F.pad(self.map_func(self.pos_neg), (0, 1), value=1.0)
        weights = torch.where(target > 0, 1 + self.alpha * (1 - of_negatives), of_negatives)
        rows = (F.binary_cross_entropy_with_logits(x, target, reduction='none') * weights).sum(1)
        if self.training:
            self.collect_grad(x.detach(), target, weights if weight is None else weights * weight[:, None])
        reduction = reduction_override or self.reduction
        if not len(rows) and reduction == 'mean':
            reduction, avg_factor = 'sum', None
        return self.loss_weight * weight_reduce_loss(rows, weight, reduction, avg_factor)

    @torch.no_grad()
    def collect_grad(self, pred: Tensor, target: Tensor, weight: Tensor) -> None:
        """Adds the gradients of a step, of all processes, to g."""
        gradients = ((pred.sigmoid() - target).abs() * weight)[:, :-1]
        positive = (gradients * target[:, :-1]).sum(0)
        sums = torch.stack([positive, gradients.sum(0) - positive]).to(self.pos_grad.dtype)
        sums = torch.where(sums.isfinite(), sums, 0)
        all_reduce(sums)
        self.pos_grad += sums[0]
        self.neg_grad += sums[1]
        self.pos_neg.copy_(self.pos_grad / (self.neg_grad + 1e-10))
