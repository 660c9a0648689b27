"""BBoxHeadEQLV2Loss against mmdet's EQLV2Loss, which computes the same loss, and in the head that scores with it."""

import copy

import pytest
import torch
from helpers.processes import in_two_processes
from mmdet.models.losses import EQLV2Loss
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS

from apa_mmdet.models.losses import BBoxHeadEQLV2Loss

C = 5


def draw(n=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C + 1, (n,), generator=generator)
    return torch.randn(n, C + 1, generator=generator) * 4, labels


def step(loss, logits, labels, *args, **kwargs):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, *args, **kwargs)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize('options', [{}, dict(mu=0.5, alpha=2.0, gamma=3, loss_weight=0.3)])
def test_loss_gradient_and_state_of_every_step_are_mmdets(options):
    ours, theirs = BBoxHeadEQLV2Loss(C, **options), EQLV2Loss(num_classes=C, **options)
    for seed in range(20):
        logits, labels = draw(seed=seed)
        torch.testing.assert_close(step(ours, logits, labels), step(theirs, logits, labels))
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours.pos_neg.max() < 100


def test_background_roi_weigh_as_the_head_says():
    """A BBoxHead gives a weight for each RoI, and divides by how many are not 0; mmdet's loss has no use for either."""
    (logits, labels), weights = draw(), torch.tensor([1.0, 0, 1, 1, 0, 0, 1])
    ours, alone = BBoxHeadEQLV2Loss(C), BBoxHeadEQLV2Loss(C)
    value, _ = step(ours, logits, labels, weights, avg_factor=4.0)
    torch.testing.assert_close(value, step(alone, logits[weights > 0], labels[weights > 0])[0])
    torch.testing.assert_close(ours.pos_grad, alone.pos_grad)


def test_scores_are_those_of_the_classes_times_those_of_an_object():
    logits, _ = draw()
    p = 1 / (1 + torch.exp(-logits))
    expected = torch.cat([p[:, :C] * (1 - p[:, C:]), p[:, C:]], 1)
    torch.testing.assert_close(BBoxHeadEQLV2Loss(C).get_activation(logits), expected)
    torch.testing.assert_close(BBoxHeadEQLV2Loss(C, test_with_obj=False).get_activation(logits), p)
    torch.testing.assert_close(EQLV2Loss(num_classes=C).get_activation(logits), expected)
    half = BBoxHeadEQLV2Loss(C).get_activation(logits.half())
    assert half.dtype == torch.float32 and torch.allclose(half, expected, atol=5e-3)


@pytest.mark.parametrize('kind', [Shared2FCBBoxHead, 'LargeVocabularyBBoxHead'])
def test_a_bbox_head_trains_and_scores_with_it(kind):
    head = MODELS.build(
        dict(
            type=kind,
            num_classes=C,
            in_channels=2,
            fc_out_channels=4,
            roi_feat_size=2,
            loss_cls=dict(type='BBoxHeadEQLV2Loss', num_classes=C),
        )
    )
    logits, labels = draw()
    boxes = torch.tensor([[0.0, 0, 0, 8, 8]]).repeat(7, 1)
    deltas = torch.zeros(7, 4 * C)
    losses = head.loss(logits, deltas, boxes, labels, torch.ones(7), torch.zeros(7, 4), torch.ones(7, 4))
    hits = (logits[labels < C, :C].argmax(1) == labels[labels < C]).float().mean() * 100
    assert set(losses) == {'loss_cls', 'loss_bbox', 'acc_classes'} and losses['acc_classes'] == hits
    metas = dict(img_shape=(8, 8), scale_factor=(1.0, 1.0))
    found = head._predict_by_feat_single(boxes, logits, deltas, metas)
    torch.testing.assert_close(found.scores, head.loss_cls.get_activation(logits))
    other = dict(type='Shared2FCBBoxHead', num_classes=C + 1, loss_cls=dict(type='BBoxHeadEQLV2Loss', num_classes=C))
    with pytest.raises(ValueError, match='has num_classes=5, but its head num_classes=6'):
        MODELS.build(other)


def test_no_roi_no_foreground_and_wrong_logits():
    loss = BBoxHeadEQLV2Loss(C)
    empty = torch.zeros(0, C + 1, requires_grad=True)
    assert loss(empty, torch.zeros(0, dtype=torch.long)) == 0
    assert loss.get_accuracy(empty, torch.zeros(0, dtype=torch.long)) == dict(acc_classes=0)
    assert loss(torch.zeros(2, C + 1), torch.full((2,), C)).isfinite() and (loss.pos_grad == 0).all()
    with pytest.raises(ValueError, match=r'expects logits \(N, 6\), got \(2, 5\)'):
        loss(torch.zeros(2, C), torch.zeros(2, dtype=torch.long))


def test_what_is_not_finite_leaves_no_trace():
    """Or a step that is skipped for it would end the training all the same."""
    loss, (logits, labels) = BBoxHeadEQLV2Loss(C), draw()
    loss(logits * torch.tensor([1.0, torch.nan, 1, 1, 1, 1]), labels)
    assert all(value.isfinite().all() for value in loss.state_dict().values())
    assert loss.neg_grad[0] > 0 and loss.neg_grad[1] == 0


def test_only_training_counts_and_nothing_of_a_step_is_kept():
    loss, (logits, labels) = BBoxHeadEQLV2Loss(C), draw()
    loss.eval()(logits, labels)
    assert (loss.neg_grad == 0).all()
    loss.train()(logits.requires_grad_(), labels)
    assert torch.equal(copy.deepcopy(loss).neg_grad, loss.neg_grad)  # which mmdet's refuses, as it keeps the logits


def count_in_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    loss = BBoxHeadEQLV2Loss(C)
    for seed in range(3):
        logits, labels = draw(8, seed)
        loss(logits[rank::2], labels[rank::2])
    torch.save(loss.state_dict(), folder / f'{rank}.pth')


def test_two_processes_count_what_one_counts(tmp_path):
    in_two_processes(count_in_process, tmp_path)
    alone, states = BBoxHeadEQLV2Loss(C), [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    for seed in range(3):
        alone(*draw(8, seed))
    torch.testing.assert_close(states[0], dict(alone.state_dict()))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
