"""DropLoss over a link.

Letters: N RoIs in the batch, R the foreground RoIs among them, C classes. Labels 0 … C − 1 are classes, label C is
background; there is no background channel. x logits, p = link(x), t one-hot targets (all zero for background).
"""

import os
from collections.abc import Callable, Iterable, Sequence

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from apa_mmdet.datasets.class_frequency import check_frequencies, load_class_frequency
from apa_mmdet.ops.memory_layout import is_compiling

from .links import build_link

BLOCK_LOGITS = 1 << 21  # LVIS' 1,024 RoIs are one block, V3Det's are 16


@MODELS.register_module()
class DropLoss(nn.Module):
    """Binary cross entropy over C classes that drops most of the negative terms of rare classes.

        loss = Σᵢ Σ_c w_ic · BCE(p_ic, t_ic) / N,      BCE(p, t) = −t·log p − (1 − t)·log(1 − p)

    w_ic = 1, except where c is a dropped class (image frequency < ``frequency_threshold``) and t_ic = 0: there
    w_ic = 0 for a foreground RoI, and for a background RoI with probability 1 − r, drawn for each (i, c), where r is
    the fraction of the foreground RoIs whose own class is a dropped one. Without a foreground RoI nothing is dropped.

    Sources: Hsieh et al., *DropLoss for Long-Tail Instance Segmentation*, AAAI 2021, arXiv:2104.06402; with the Gumbel
    link it is the classification loss of *Gumbel Optimized Loss*, ECCV 2022, arXiv:2207.10936.

    The loss is computed in blocks of RoIs, and again in the backward. So for 1,024 RoIs and V3Det's 13,204 classes, on
    float32 logits, forward and backward take at most 1.5 (sigmoid, Gumbel) or 1.7 times (APA) the memory of the logits,
    their gradient included; between the two the loss keeps a mask, a quarter of that memory.

    Args:
        num_classes: C.
        link: ``sigmoid``, ``gumbel``, ``apa``, or ``dict(type='apa', lambda_init=0.5, kappa_init=1.0)``.
        class_frequency: for each class the fraction of the annotated images that show it, in order of the labels; or
            the path of a file that :func:`load_class_frequency` reads. ``init_weights`` reads it, which the Runner
            calls before training and not for inference. None for inference only.
        classes: the names of the classes in order of the labels, by which they are found in that file. SafeRunner gives
            those of the training data where there are none. None takes all categories of the file in its order.
        frequency_threshold: classes strictly below it are dropped.
        reduction: ``mean`` (over N or ``avg_factor``), ``sum``, or ``none`` for the sums over the classes, (N,).
        loss_weight: factor of the loss.

    Raises:
        ValueError: if the frequencies are not C fractions, or ``link`` or ``reduction`` is unknown.

    Example:
        >>> loss = DropLoss(2, link='sigmoid', class_frequency=[0.5, 0.001])
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))      # log 2: the second class is dropped
        tensor(0.6931)
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def __init__(
        self,
        num_classes: int,
        link: str | dict = 'gumbel',
        class_frequency: Sequence[float] | str | None = None,
        frequency_threshold: float = 0.0011,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.num_classes = num_classes
        self.link = build_link(link)
        self.class_frequency, self.classes = class_frequency, classes
        self.frequency_threshold = frequency_threshold
        self.reduction = reduction
        self.loss_weight = loss_weight
        # not persistent: a checkpoint must load whatever the training set was
        self.register_buffer('dropped', torch.zeros(num_classes, dtype=torch.bool), persistent=False)
        self.is_ready = False  # whether `dropped` holds the dropped classes
        if class_frequency is not None and not isinstance(class_frequency, (str, os.PathLike)):
            self._set_dropped(class_frequency, 'class_frequency')

    def init_weights(self) -> None:
        """Reads the file of class frequencies. MMEngine calls this for each part of a model before training.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not hold C fractions, or lacks one of ``classes``.
        """
        if isinstance(self.class_frequency, (str, os.PathLike)):
            frequencies = load_class_frequency(self.class_frequency, self.classes)
            self._set_dropped(frequencies, str(self.class_frequency))

    def get_cls_channels(self, num_classes: int) -> int:
        """Width of the classifier, C. Raises ValueError if the head has another number of classes than the loss."""
        if num_classes != self.num_classes:
            raise ValueError(f'DropLoss has num_classes={self.num_classes}, but its head num_classes={num_classes}')
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores at test time, (N, C + 1): p, and 0 for background, which does not compete with the classes."""
        p = self.link(cls_score)
        return torch.cat([p, p.new_zeros(*p.shape[:-1], 1)], dim=-1)

    @torch.no_grad()
    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``acc_classes``: percentage of the foreground RoIs whose highest p is their class; 0 without any."""
        hits = [(self.link(x).argmax(1) == label).sum() for x, label in _blocks(cls_score, labels)]
        return dict(acc_classes=100.0 * torch.stack(hits).sum() / (labels < self.num_classes).sum().clamp(min=1))

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            cls_score: logits, (N, C), of any floating dtype; the loss is float32.
            labels: (N,), integers in [0, C].
            label_weights: (N,), a weight for each RoI.
            avg_factor: divides the sum instead of N; with ``mean`` only (mmdet refuses it with ``sum``).
            reduction_override: replaces ``reduction``.

        Raises:
            ValueError: on a wrong shape, a label outside [0, C], an unknown reduction, or without frequencies. On a
                GPU a label outside [0, C] ends in a device-side assertion, as a check would wait for the device.
            RuntimeError: if ``init_weights`` has not read the file of class frequencies.
        """
        reduction = self.reduction if reduction_override is None else reduction_override
        _check_reduction(reduction)
        self._check(cls_score, labels)
        foreground = labels < self.num_classes
        target = labels.clamp(max=self.num_classes - 1)[:, None]
        skipped = self._skipped_negatives(cls_score, foreground, target)
        if is_compiling():  # a compiler fuses the rows, and cannot follow the gradient that blocks compute
            loss = self._sum_of_rows(cls_score, skipped, foreground, target)
        else:
            loss = _RowBlocks.apply(self._sum_of_rows, cls_score, skipped, foreground, target, *_trained(self.link))
        if len(loss) == 0 and reduction == 'mean':
            reduction, avg_factor = 'sum', None
        weights = None if label_weights is None else label_weights.to(loss.dtype)
        return self.loss_weight * weight_reduce_loss(loss, weights, reduction, avg_factor)

    def _sum_of_rows(self, cls_score: Tensor, skipped: Tensor, foreground: Tensor, target: Tensor) -> Tensor:
        """Σ_c w_ic · BCE(p_ic, t_ic), (N,)."""
        negatives = self.link.neg_log_complement(cls_score).masked_fill_(skipped, 0).sum(1)
        positive = self.link.neg_log(cls_score.gather(1, target)).squeeze(1)
        return negatives + torch.where(foreground, positive, torch.zeros_like(positive))

    def _skipped_negatives(self, cls_score: Tensor, foreground: Tensor, target: Tensor) -> Tensor:
        """(N, C) mask of the terms of t = 0 that do not count: dropped ones, and those of the RoI's own class."""
        rare = foreground & self.dropped[target.squeeze(1)]
        fraction = rare.sum() / foreground.sum().clamp(min=1)
        fraction = fraction.masked_fill(~foreground.any(), 1)  # without a foreground RoI nothing is dropped
        skipped = torch.empty_like(cls_score, dtype=torch.bool).bernoulli_(1 - fraction)
        skipped.logical_or_(foreground[:, None]).logical_and_(self.dropped)
        return skipped.scatter_(1, target, foreground[:, None] | skipped.gather(1, target))

    def _check(self, cls_score: Tensor, labels: Tensor) -> None:
        if cls_score.dim() != 2 or cls_score.size(1) != self.num_classes or labels.shape != cls_score.shape[:1]:
            raise ValueError(
                f'DropLoss expects logits (N, {self.num_classes}) and labels (N,), '
                f'got {tuple(cls_score.shape)} and {tuple(labels.shape)}'
            )
        if self.class_frequency is None:
            raise ValueError(
                'DropLoss computes no loss without class_frequency: give a list of image frequencies, or their file'
            )
        if not self.is_ready:
            raise RuntimeError(
                f'DropLoss: {self.class_frequency} has not been read; call init_weights() of the model before the '
                'first loss, as the Runner does'
            )
        outside = (labels < 0) | (labels > self.num_classes)
        message = f'DropLoss: labels must lie in [0, {self.num_classes}] ({self.num_classes} is background)'
        if labels.is_cuda or labels.is_meta or is_compiling():  # an `if` waits for the device, and breaks a graph
            torch._assert_async(~outside.any(), message)
        elif outside.any():
            raise ValueError(f'{message}, got {labels[outside][0].item()}')

    def _set_dropped(self, frequencies: Sequence[float], origin: str) -> None:
        frequencies = check_frequencies(frequencies, origin)
        if len(frequencies) != self.num_classes:
            give = '' if self.classes else '; give classes=(…), the names of the classes, to take only theirs'
            raise ValueError(
                f'DropLoss has num_classes={self.num_classes}, but {origin} holds {len(frequencies)} frequencies{give}'
            )
        self.dropped.copy_(torch.tensor([frequency < self.frequency_threshold for frequency in frequencies]))
        self.is_ready = True


def _check_reduction(reduction: str) -> None:
    if reduction not in ('none', 'mean', 'sum'):
        raise ValueError(f'DropLoss: reduction must be one of none, mean, sum, got {reduction!r}')


def _trained(module: nn.Module) -> list[Tensor]:
    """Returns its tensors with a gradient: parameters, or what DataParallel's replicas and FSDP have instead."""
    attributes = (value for part in module.modules() for value in (*part._parameters.values(), *vars(part).values()))
    # each once: FSDP with use_orig_params has them in both places
    return list(dict.fromkeys(value for value in attributes if isinstance(value, Tensor) and value.requires_grad))


class _RowBlocks(Function):
    """Computes ``function(x, skipped, foreground, target)``, (N,), in blocks of rows, and again in the backward.

    Args of ``apply``: the function, each result of which depends only on its own row; x (N, C); three tensors of N
    rows without a gradient; the parameters that the function reads.
    """

    @staticmethod
    def forward(
        ctx, function: Callable, x: Tensor, skipped: Tensor, foreground: Tensor, target: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, skipped, foreground, target, *parameters)
        return torch.cat([function(*block) for block in _blocks(x, skipped, foreground, target)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, skipped, foreground, target, *parameters = ctx.saved_tensors
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        to_x, sums = torch.empty_like(x), [torch.zeros_like(parameter) for parameter in trained]
        for to_x_block, grad_block, x_block, *block in _blocks(to_x, grad, x, skipped, foreground, target):
            with torch.enable_grad():
                x_block = x_block.detach().requires_grad_()
                value = ctx.function(x_block, *block)
            to_x_block[:], *to_parameters = torch.autograd.grad(value, (x_block, *trained), grad_block)
            sums = [total + part for total, part in zip(sums, to_parameters)]
        sums = iter(sums)
        return None, to_x, None, None, None, *(next(sums) if p.requires_grad else None for p in parameters)


def _blocks(first: Tensor, *others: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Splits tensors of N rows, the first of shape (N, C), into the same blocks of rows."""
    rows = max(len(first), 1) if first.numel() <= BLOCK_LOGITS else -(-len(first) // 16)
    return zip(*(tensor.split(rows) for tensor in (first, *others)))
