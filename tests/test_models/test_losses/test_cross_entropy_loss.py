"""MemoryEfficientCrossEntropyLoss against mmdet's cross entropy, in less memory."""

import pytest
import torch
from helpers.memory import memory_of, saved_bytes
from mmdet.models.losses import CrossEntropyLoss
from torch.autograd import gradcheck

from apa_mmdet.models.losses import MemoryEfficientCrossEntropyLoss


def results(loss, logits, *args, **kwargs):
    logits = logits.clone().requires_grad_()
    value = loss(logits, *args, **kwargs)
    value.sum().backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('shape', [(7, 5), (1, 1), (0, 4), (3, 1001)])
def test_values_and_gradients_match_mmdet(reduction, shape):
    logits, labels, weights = torch.randn(shape) * 30, torch.randint(0, shape[1], shape[:1]), torch.rand(shape[0])
    for arguments in ((), (weights,)):
        kwargs = dict(avg_factor=3.0) if reduction == 'mean' else {}
        ours, theirs = (
            results(loss_type(reduction=reduction, loss_weight=0.7), logits, labels, *arguments, **kwargs)
            for loss_type in (MemoryEfficientCrossEntropyLoss, CrossEntropyLoss)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradcheck():
    logits, labels = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.tensor([0, 5, 2, 2])
    assert gradcheck(lambda x: MemoryEfficientCrossEntropyLoss(reduction='none')(x, labels), (logits,))


def test_half_precision_is_computed_in_float32():
    logits, labels = (torch.randn(5, 300) * 20).bfloat16(), torch.randint(0, 300, (5,))
    (ours, grad), (exact, exact_grad) = (
        results(MemoryEfficientCrossEntropyLoss(), x, labels) for x in (logits, logits.float())
    )
    assert torch.equal(ours, exact) and torch.equal(grad, exact_grad.bfloat16())


def test_large_logits_are_finite():
    value, grad = results(MemoryEfficientCrossEntropyLoss(), torch.tensor([[3e4, -3e4, 0.0]]), torch.tensor([1]))
    assert value == 6e4 and torch.equal(grad, torch.tensor([[1.0, -1.0, 0.0]]))


@pytest.mark.parametrize('offset', [300.0, 2000.0, 1e6])
def test_logits_far_from_zero_lose_no_precision(offset):
    """Wrapped Cauchy logits reach thousands; a difference of 10 there is a loss of 4.54e-5, not 0."""
    value, grad = results(MemoryEfficientCrossEntropyLoss(), torch.tensor([[offset + 10, offset]]), torch.tensor([0]))
    assert value.item() == pytest.approx(4.5399e-5, rel=1e-3)
    torch.testing.assert_close(grad, torch.tensor([[-4.5398e-5, 4.5398e-5]]), rtol=1e-3, atol=0)


def test_ignore_index_is_refused():
    with pytest.raises(ValueError, match='does not support ignore_index=1; use CrossEntropyLoss'):
        MemoryEfficientCrossEntropyLoss()(torch.zeros(1, 2), torch.tensor([0]), ignore_index=1)


def test_memory_of_13204_classes_is_that_of_the_logits():
    logits, labels = torch.randn(64, 13205).requires_grad_(), torch.randint(0, 13205, (64,))
    loss = MemoryEfficientCrossEntropyLoss()
    assert memory_of(lambda: loss(logits, labels).backward(), logits.device).peak <= 1.1 * logits.nbytes
    assert saved_bytes(lambda: loss(logits, labels)) <= 1.1 * logits.nbytes  # the logits
    assert memory_of(lambda: loss(logits, labels), logits.device).held <= 0.1 * logits.nbytes
