"""DropLoss against the recorded figures, a naive double loop, and inside mmdet's box head."""

import json

import numpy as np
import pytest
import torch
from helpers.memory import memory_of
from helpers.paths import ROOT
from helpers.recordings import load
from helpers.replicas import gradients_under_fsdp, replica_of
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from apa_mmdet.models.losses import DropLoss, drop_loss

CASES = ['all_foreground', 'ratio0', 'ratio1', 'all_background']
SHIPPED = ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
LINKS = ['gumbel', 'sigmoid', 'apa']
FREQUENCY = [0.5, 0.001, 0.2, 0.0005, 0.0011]  # classes 1 and 3 are dropped; 4 lies on the threshold
C = len(FREQUENCY)


@pytest.fixture(scope='module')
def recorded():
    return load('drop_loss.npz')


def build(link='gumbel', **kwargs):
    return DropLoss(**{**dict(num_classes=C, link=link, class_frequency=FREQUENCY), **kwargs})


def naive(logits, labels, link, dropped):
    """Per-RoI sums by two loops in float64; for fractions r of 0 or 1 alone, where nothing is drawn."""
    foreground = [label for label in labels if label < C]
    r = np.mean([label in dropped for label in foreground]) if foreground else 1
    assert r in (0, 1) or len(foreground) == len(labels)
    sums = []
    for x, label in zip(logits.double().numpy(), labels):
        p = 1 / (1 + np.exp(-x)) if link != 'gumbel' else np.exp(-np.exp(-np.clip(x, -10, 10)))
        total = 0.0
        for c in range(C):
            spared = c in dropped and (label < C or r == 0)
            total += -np.log(p[c]) if c == label else 0 if spared else -np.log(1 - p[c])
        sums.append(total)
    return torch.tensor(sums)


# ------------------------------------------------------------------------------------------------ recorded figures
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('link', ['gumbel', 'sigmoid'])
def test_loss_and_gradient_match_the_recorded_figures(recorded, case, link):
    loss = DropLoss(1203, link, recorded['image_count_frequency'].tolist())
    logits = torch.from_numpy(recorded['logits']).requires_grad_()
    labels = torch.from_numpy(recorded[f'{case}/labels'])
    value = loss(logits, labels)
    value.backward()
    np.testing.assert_allclose(value.item(), recorded[f'{case}/{link}/loss'], rtol=1e-5)
    grad, want = logits.grad.numpy(), recorded[f'{case}/{link}/grad']
    # 1 − p loses digits to rounding in the official float32 code where p is small or near 1
    np.testing.assert_allclose(grad[:, ::5], want, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal((grad[:, ::5] == 0)[np.abs(want) > 1e-6], False)
    rows = (labels < 1203).nonzero().squeeze(1)
    np.testing.assert_allclose(
        grad[rows, labels[rows]], recorded[f'{case}/{link}/grad_of_positives'], rtol=1e-4, atol=1e-8
    )
    sums, terms = grad.astype(float).sum(1), abs(grad).sum(1)  # the terms of a sum cancel, their errors do not
    want = recorded[f'{case}/{link}/grad_row_sums']
    assert (abs(sums - want) <= 1e-4 * abs(want) + 1e-6 * terms).all()


@pytest.mark.parametrize('link', ['gumbel', 'sigmoid'])
def test_scores_match_the_recorded_figures(recorded, link):
    scores = DropLoss(1203, link).get_activation(torch.from_numpy(recorded['logits']))
    assert scores.shape == (24, 1204) and (scores[:, -1] == 0).all()
    np.testing.assert_allclose(scores.numpy()[::4], recorded[f'activation/{link}'], rtol=1e-5, atol=1e-7)


def test_815_classes_of_lvis_are_dropped(recorded):
    loss = DropLoss(1203, class_frequency=SHIPPED)
    assert not loss.dropped.any()
    loss.init_weights()
    assert loss.dropped.sum() == 815
    listed = DropLoss(1203, class_frequency=recorded['image_count_frequency'].tolist())
    assert torch.equal(loss.dropped, listed.dropped)


# ------------------------------------------------------------------------------------------------ formula
@pytest.mark.parametrize('link', LINKS)
@pytest.mark.parametrize('labels', [[0, 2, C, C], [1, 3, C, C], [C, C], [0, 1, 4], [3]], ids=str)
def test_loss_matches_the_naive_formula(link, labels):
    logits = torch.randn(len(labels), C) * 3
    want = naive(logits, labels, link, dropped={1, 3})
    loss, labels = build(link), torch.tensor(labels)
    torch.testing.assert_close(
        loss(logits, labels, reduction_override='none').double(), want, rtol=1e-5, atol=1e-6, check_dtype=False
    )
    torch.testing.assert_close(loss(logits, labels).item(), want.mean().item(), rtol=1e-5, atol=1e-6)


def test_negatives_of_background_are_dropped_at_the_rate_of_common_foreground():
    n, loss = 20000, build('sigmoid')
    labels = torch.full((n + 4,), C)
    labels[:4] = torch.tensor([1, 0, 2, 4])  # a quarter of the foreground is rare: three quarters are dropped
    logits = torch.zeros(n + 4, C, requires_grad=True)
    loss(logits, labels, reduction_override='sum').backward()
    kept = logits.grad[4:] != 0
    assert kept[:, [0, 2, 4]].all()
    rate = kept[:, [1, 3]].float()
    assert (rate.mean(0) - 0.25).abs().max() < 4 * (0.25 * 0.75 / n) ** 0.5
    both = rate.prod(1).mean()
    assert abs(both - 0.25**2) < 4 * (0.0625 * 0.9375 / n) ** 0.5, 'one draw for each class, not for each RoI'
    assert (logits.grad[:4, [1, 3]] != 0).tolist() == [[True, False], [False, False], [False, False], [False, False]]


def test_background_draws_differ_from_call_to_call():
    loss, labels = build(), torch.tensor([0, 1] + [C] * 100)
    logits = torch.zeros(102, C)
    assert loss(logits, labels) != loss(logits, labels)


def test_buffers_keep_their_shape_for_averaged_models(tmp_path):
    path = tmp_path / 'f.json'
    path.write_text(str(FREQUENCY))
    loss = DropLoss(C, class_frequency=str(path))
    before = [(name, buffer.shape) for name, buffer in loss.named_buffers()]
    loss.init_weights()
    assert loss.dropped.tolist() == [False, True, False, True, False]
    assert [(name, buffer.shape) for name, buffer in loss.named_buffers()] == before
    assert not loss.state_dict()


def test_without_dropped_classes_it_is_binary_cross_entropy():
    loss = build('sigmoid', class_frequency=[0.5] * C)
    logits, labels = torch.randn(4, C), torch.tensor([0, 3, C, C])
    targets = torch.eye(C + 1)[labels, :C]
    want = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction='sum') / 4
    torch.testing.assert_close(loss(logits, labels), want)


# ------------------------------------------------------------------------------------------------ reductions, dtypes
def test_reductions_and_weights_follow_mmdet():
    labels, logits = torch.tensor([0, 1, 4]), torch.randn(3, C)
    per_roi = build()(logits, labels, reduction_override='none')
    assert per_roi.shape == (3,)
    weights = torch.tensor([1.0, 0.0, 2.0])
    for kwargs, want in [
        (dict(), per_roi.mean()),
        (dict(reduction_override='sum'), per_roi.sum()),
        (dict(avg_factor=7.0), per_roi.sum() / 7),
        (dict(label_weights=weights), (per_roi * weights).mean()),
        (dict(label_weights=weights, avg_factor=2.0), (per_roi * weights).sum() / 2),
    ]:
        torch.testing.assert_close(build()(logits, labels, **kwargs), want)
        torch.testing.assert_close(build(loss_weight=3.0)(logits, labels, **kwargs), want * 3)
    torch.testing.assert_close(build(reduction='sum')(logits, labels), per_roi.sum())
    torch.testing.assert_close(build(reduction='sum')(logits, labels, reduction_override='mean'), per_roi.mean())


@pytest.mark.parametrize('link', LINKS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(link, dtype):
    half = (torch.randn(6, C) * 8).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    loss, labels = build(link), torch.tensor([0, 1, 2, 3, 4, 0])
    values = loss(half, labels), loss(full, labels)
    sum(values).backward()
    assert values[0].dtype == torch.float32 and torch.equal(*values)
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


@pytest.mark.parametrize('link', LINKS)
@pytest.mark.parametrize('kwargs', [dict(), dict(avg_factor=1.0), dict(label_weights=torch.zeros(0))], ids=str)
def test_without_rois_loss_and_gradients_are_zero(link, kwargs):
    logits = torch.zeros(0, C, requires_grad=True)
    loss = build(link)
    value = loss(logits, torch.zeros(0, dtype=torch.long), **kwargs)
    value.backward()
    assert value.item() == 0 and logits.grad.shape == (0, C)
    assert all((p.grad == 0).all() for p in loss.parameters())
    assert loss.get_accuracy(logits.detach(), torch.zeros(0, dtype=torch.long))['acc_classes'] == 0
    assert loss.get_activation(logits).shape == (0, C + 1)


def test_link_parameters_are_trained():
    loss = build('apa')
    optimizer = torch.optim.SGD(loss.parameters(), 0.01)
    logits, labels = torch.randn(8, C), torch.tensor([0, 2, 4, C, C, C, C, C])
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        values.append(loss(logits, labels))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0] - 0.05
    assert loss.link.lambda_ != 1 and loss.link.kappa != 1


def test_link_parameters_of_a_replica_are_trained():
    loss, logits, labels = build('apa'), torch.randn(6, C), torch.randint(0, C, (6,))
    results = [torch.autograd.grad(each(logits, labels), list(loss.parameters())) for each in (replica_of(loss), loss)]
    assert results[0] == results[1]


@pytest.mark.filterwarnings('ignore::UserWarning')  # one process has nothing to shard
@pytest.mark.parametrize('use_orig_params', [False, True])
def test_link_parameters_under_fsdp_are_trained(use_orig_params, tmp_path):
    loss, logits, labels = build('apa'), torch.randn(6, C), torch.randint(0, C, (6,))
    want = torch.cat(torch.autograd.grad(loss(logits, labels), list(loss.parameters())))
    got = gradients_under_fsdp(loss, lambda each: each(logits, labels), use_orig_params, tmp_path)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('link', LINKS)
def test_backward_keeps_only_the_logits_and_a_mask(link):
    logits, labels = torch.randn(64, 1000, requires_grad=True), torch.full((64,), 1000)
    loss, saved = build(link, num_classes=1000, class_frequency=[0.0] * 500 + [1.0] * 500), {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, labels)
    saved.pop(logits.untyped_storage().data_ptr())
    assert sum(saved.values()) < 0.3 * logits.numel() * 4


@pytest.mark.parametrize('link', LINKS)
def test_blocks_of_rows_give_the_same_loss_and_gradients(link, monkeypatch):
    loss, weights = build(link, reduction='none'), torch.rand(40)
    logits = torch.randn(C, 40).t().requires_grad_()  # not contiguous
    labels = torch.randint(0, C, (40,))  # all foreground: nothing is drawn
    results = []
    for block in (1 << 19, 7):
        monkeypatch.setattr(drop_loss, 'BLOCK_LOGITS', block)
        value = loss(logits, labels)
        results.append((value, *torch.autograd.grad((value * weights).sum(), (logits, *loss.parameters()))))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('block', [1 << 21, 7])
def test_gradcheck_of_logits_and_link(block, monkeypatch):
    monkeypatch.setattr(drop_loss, 'BLOCK_LOGITS', block)
    loss = build(dict(type='apa', lambda_init=0.6, kappa_init=1.4), reduction='none').double()
    logits = torch.randn(20, C, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, C, (20,))  # all foreground: nothing is drawn
    assert gradcheck(lambda x, *_: loss(x, labels), (logits, *loss.parameters()))


@pytest.mark.parametrize('frozen', [('lambda_',), ('kappa',), ('lambda_', 'kappa')])
def test_frozen_link_parameters_get_no_gradient(frozen):
    logits, labels = torch.randn(6, C, requires_grad=True), torch.randint(0, C, (6,))
    loss, free = build('apa'), build('apa')
    for name in frozen:
        getattr(loss.link, name).requires_grad_(False)
    loss(logits, labels).backward()
    expected = torch.autograd.grad(free(logits, labels), (logits, *free.parameters()))
    torch.testing.assert_close(logits.grad, expected[0])
    for (name, p), gradient in zip(loss.link.named_parameters(), expected[1:]):
        assert p.grad is None if name in frozen else torch.equal(p.grad, gradient)


@pytest.mark.parametrize('reentrant', [True, False])
def test_gradient_checkpointing_gives_the_same_gradient(reentrant):
    loss, labels = build(), torch.randint(0, C, (6,))
    logits = torch.randn(6, C, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(logits, labels), logits)
    checkpoint(loss, logits, labels, use_reentrant=reentrant).backward()
    assert torch.equal(logits.grad, expected)


@pytest.mark.parametrize('link', LINKS)
def test_peak_memory_of_13204_classes_is_twice_the_logits(link):
    """Training must fit: with the gradient no more than twice the logits."""
    classes = 13204
    loss = DropLoss(classes, link, class_frequency=[0.001, 0.1] * (classes // 2))
    logits, labels = torch.randn(256, classes).requires_grad_(), torch.randint(0, classes + 1, (256,))
    assert memory_of(lambda: loss(logits, labels).backward(), logits.device).peak <= 2 * logits.nbytes


def test_state_dict_holds_only_the_link():
    assert not build('gumbel').state_dict() and not build('sigmoid').state_dict()
    assert list(build('apa').state_dict()) == ['link.lambda_', 'link.kappa']


def test_accuracy_counts_only_foreground():
    logits = torch.eye(C)[[0, 2, 2, 1]]
    accuracy = build().get_accuracy(logits, torch.tensor([0, 1, 2, C]))
    assert list(accuracy) == ['acc_classes']
    torch.testing.assert_close(accuracy['acc_classes'].item(), 200 / 3)
    assert build().get_accuracy(logits, torch.full((4,), C))['acc_classes'] == 0
    falling = build(dict(type='apa', kappa_init=-1.0))  # the lowest logit is the highest p
    assert falling.get_accuracy(-logits, torch.tensor([0, 2, 2, 1]))['acc_classes'] == 100


# ------------------------------------------------------------------------------------------------ errors, files
@pytest.mark.parametrize('link', LINKS)
def test_loss_reads_no_value_back_from_the_device(link):
    """On the meta device whatever would copy a value to the host raises, as it would wait on a GPU."""
    loss, labels = build(link).to('meta'), torch.empty(6, dtype=torch.long, device='meta')
    logits, weights = torch.empty(6, C, device='meta', requires_grad=True), torch.empty(6, device='meta')
    loss(logits, labels, weights, avg_factor=6.0).backward()
    loss.get_accuracy(logits, labels), loss.get_activation(logits)
    assert logits.grad.shape == (6, C)
    with pytest.raises(RuntimeError, match='item|_local_scalar_dense'):
        bool(labels.any())


@pytest.mark.parametrize('label', [-1, C + 1])
def test_label_outside_its_range_is_refused(label):
    with pytest.raises(ValueError, match=rf'\[0, {C}\].* got {label}$'):
        build()(torch.zeros(2, C), torch.tensor([0, label]))


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=f'num_classes=3, but class_frequency holds {C}'):
        build(num_classes=3)
    with pytest.raises(ValueError, match='number 1 is 40'):
        DropLoss(2, class_frequency=[0.1, 40])
    with pytest.raises(ValueError, match='known links'):
        build('probit')
    with pytest.raises(ValueError, match='one of none, mean, sum'):
        build(reduction='max')
    with pytest.raises(ValueError, match='one of none, mean, sum'):
        build()(torch.zeros(1, C), torch.tensor([0]), reduction_override='max')
    with pytest.raises(ValueError, match=r'logits \(N, 5\)'):
        build()(torch.zeros(1, C + 1), torch.tensor([0]))
    with pytest.raises(ValueError, match=f'num_classes={C}, but its head num_classes=80'):
        build().get_cls_channels(80)
    assert build().get_cls_channels(C) == C


def test_frequency_file_is_read_by_init_weights_and_at_no_other_time(tmp_path):
    path = tmp_path / 'frequency.json'
    loss = build(class_frequency=str(path))
    logits, labels = torch.randn(3, C), torch.tensor([0, C, C])
    loss.get_activation(logits), loss.get_accuracy(logits, labels), loss.state_dict(), loss.half(), loss.float()
    with pytest.raises(FileNotFoundError, match='frequency.json: no such file.*training'):
        loss.init_weights()
    path.write_text(json.dumps(FREQUENCY))
    with pytest.raises(RuntimeError, match=r'frequency\.json has not been read; call init_weights\(\) of the model'):
        loss(logits, labels)
    loss.init_weights()
    path.unlink()
    torch.testing.assert_close(loss(logits, labels), build()(logits, labels))


def test_frequency_file_of_another_number_of_classes_is_refused(tmp_path):
    path = tmp_path / 'frequency.json'
    path.write_text('[0.5, 0.5]')
    with pytest.raises(ValueError, match='frequency.json holds 2 frequencies'):
        build(class_frequency=path).init_weights()


def test_frequencies_of_named_classes_are_taken_from_a_file_with_more(tmp_path):
    counts = [dict(id=i, name=name, image_count=i * 5) for i, name in enumerate(('food', 'date', 'fig'))]
    path = tmp_path / 'counts.json'
    path.write_text(json.dumps(dict(n_images_annotated=10, categories=counts)))
    loss = DropLoss(2, class_frequency=str(path), frequency_threshold=0.6)
    with pytest.raises(ValueError, match=r'num_classes=2, but .* holds 3 frequencies; give classes='):
        loss.init_weights()
    loss.classes = ('fig', 'date')
    loss.init_weights()
    assert loss.dropped.tolist() == [False, True]
    with pytest.raises(ValueError, match='lacks: 1 of 2, e.g. pear; '):
        DropLoss(2, class_frequency=str(path), classes=('fig', 'pear')).init_weights()


def test_without_frequencies_there_are_scores_but_no_loss():
    loss = build(class_frequency=None)
    loss.init_weights()
    assert loss.get_activation(torch.zeros(2, C)).shape == (2, C + 1)
    with pytest.raises(ValueError, match='no loss without class_frequency'):
        loss(torch.zeros(1, C), torch.tensor([0]))


# ------------------------------------------------------------------------------------------------ in mmdet's head
def box_head(class_frequency):
    return MODELS.build(
        dict(
            type='Shared2FCBBoxHead',
            in_channels=8,
            fc_out_channels=16,
            roi_feat_size=3,
            num_classes=C,
            loss_cls=dict(type='DropLoss', num_classes=C, link='gumbel', class_frequency=class_frequency),
        )
    )


@pytest.mark.parametrize('n_foreground', [3, 0])
def test_loss_in_a_box_head_that_has_read_the_file(n_foreground, tmp_path):
    (tmp_path / 'frequency.json').write_text(json.dumps(FREQUENCY))
    head = box_head(str(tmp_path / 'frequency.json'))
    head.init_weights()
    assert head.loss_cls.dropped.sum() == 2
    assert head.fc_cls.out_features == C
    rois = torch.cat([torch.zeros(6, 1), torch.rand(6, 2) * 20, torch.rand(6, 2) * 20 + 30], 1)
    cls_score, bbox_pred = head(torch.randn(6, 8, 3, 3))
    labels = torch.tensor([0, 1, 4][:n_foreground] + [C] * (6 - n_foreground))
    losses = head.loss(cls_score, bbox_pred, rois, labels, torch.ones(6), torch.zeros(6, 4), torch.zeros(6, 4))
    assert set(losses) == {'loss_cls', 'acc_classes', 'loss_bbox'}
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    assert head.fc_cls.weight.grad.abs().sum() > 0 and losses['loss_cls'].isfinite()


def test_prediction_in_a_box_head_without_the_frequency_file():
    head = box_head('/nowhere/lvis_v1_train.json').eval()
    rois = bbox2roi([torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 60.0, 60.0]])])
    cls_score = torch.full((2, C), -8.0)
    cls_score[0, 3], cls_score[1, 1] = 2.0, 3.0
    test_cfg = ConfigDict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    (result,) = head.predict_by_feat(
        (rois,), (cls_score,), (torch.zeros(2, C * 4),), [dict(img_shape=(64, 64), scale_factor=(1.0, 1.0))], test_cfg
    )
    assert isinstance(result, InstanceData) and result.labels.tolist() == [1, 3]
    torch.testing.assert_close(result.scores, torch.exp(-torch.exp(torch.tensor([-3.0, -2.0]))))
