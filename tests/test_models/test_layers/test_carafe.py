"""CARAFE against its definition in nested loops, and as the upsampling of mmdet's mask head."""

import sys

import numpy as np
import pytest
import torch
from mmcv.ops.carafe import CARAFEPack
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch.autograd import gradcheck

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack, carafe

file_under_test = sys.modules['apa_mmdet.models.layers.carafe']
UPSAMPLE = dict(
    type='carafe', scale_factor=2, up_kernel=5, up_group=1, encoder_kernel=3, encoder_dilation=1, compressed_channels=64
)
SHAPES = [  # N, C, H, W, k, G, s
    (2, 4, 3, 5, 3, 2, 2),
    (1, 3, 4, 4, 5, 1, 2),
    (2, 6, 1, 1, 5, 3, 3),
    (1, 2, 2, 7, 3, 1, 1),
    (1, 4, 5, 3, 1, 4, 2),
    (1, 2, 7, 1, 7, 2, 2),
]


def random_input(n, channels, height, width, k, groups, s, dtype=torch.float64):
    features = torch.randn(n, channels, height, width, dtype=dtype)
    masks = torch.randn(n, groups * k * k, height * s, width * s, dtype=dtype)
    return features.requires_grad_(), masks.requires_grad_()


def naive(features, masks, k, groups, s):
    """The definition, one output value after the other."""
    features, masks = features.detach().numpy(), masks.detach().numpy()
    n, channels, height, width = features.shape
    out = np.zeros((n, channels, height * s, width * s))
    for m, c, y, x in np.ndindex(*out.shape):
        group = c // (channels // groups)
        for i, j in np.ndindex(k, k):
            row, column = y // s + i - k // 2, x // s + j - k // 2
            if 0 <= row < height and 0 <= column < width:
                out[m, c, y, x] += masks[m, (group * k + i) * k + j, y, x] * features[m, c, row, column]
    return torch.from_numpy(out)


@pytest.fixture(params=[None, 2], ids=['whole', 'tiles of 2'])
def tile(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(file_under_test, 'TILE', request.param)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_definition(shape, tile):
    features, masks = random_input(*shape)
    torch.testing.assert_close(carafe(features, masks, *shape[4:]), naive(features, masks, *shape[4:]))


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_gradcheck(shape, tile):
    features, masks = random_input(*shape)
    assert gradcheck(lambda f, m: carafe(f, m, *shape[4:]), (features, masks), fast_mode=True)


def test_wider_than_a_tile():
    shape = (1, 2, 2, file_under_test.TILE + 3, 3, 1, 2)
    features, masks = random_input(*shape)
    torch.testing.assert_close(carafe(features, masks, *shape[4:]), naive(features, masks, *shape[4:]))


def test_inputs_that_are_not_contiguous():
    features, masks = random_input(2, 4, 3, 5, 3, 2, 2)
    want = torch.autograd.grad(carafe(features, masks, 3, 2, 2).square().sum(), (features, masks))
    strided = [
        t.detach().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2).requires_grad_() for t in (features, masks)
    ]
    got = torch.autograd.grad(carafe(*strided, 3, 2, 2).square().sum(), strided)
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)], ids=str
)
def test_dtypes(dtype, tolerance):
    features, masks = random_input(2, 4, 3, 5, 3, 2, 2, dtype)
    out = carafe(features, masks, 3, 2, 2)
    out.sum().backward()
    assert out.dtype == features.grad.dtype == masks.grad.dtype == dtype
    torch.testing.assert_close(
        out.double(), naive(features.double(), masks.double(), 3, 2, 2), rtol=tolerance, atol=tolerance
    )


def test_empty_batch():
    features, masks = random_input(0, 4, 3, 5, 3, 2, 2)
    out = carafe(features, masks, 3, 2, 2)
    out.sum().backward()
    assert out.shape == (0, 4, 6, 10) and features.grad.shape == features.shape and masks.grad.shape == masks.shape


@pytest.mark.parametrize('k, groups, s', [(4, 1, 2), (3, 3, 2), (3, 1, 3), (5, 1, 2)])
def test_shapes_that_do_not_fit(k, groups, s):
    features, masks = random_input(1, 4, 3, 3, 3, 1, 2)
    with pytest.raises(ValueError, match=r'needs masks .* got \(1, 9, 6, 6\)'):
        carafe(features, masks, k, groups, s)


def test_backward_keeps_its_inputs_alone():
    features, masks = random_input(2, 4, 6, 6, 3, 1, 2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        carafe(features, masks, 3, 1, 2)
    assert set(saved) == {features.data_ptr(), masks.data_ptr()}


def test_mask_head_builds_and_trains_it():
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(
            dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=16,
                conv_out_channels=16,
                num_classes=3,
                upsample_cfg=UPSAMPLE,
            )
        )
    head.init_weights()
    assert type(head.upsample) is DeviceAgnosticCARAFEPack and isinstance(head.upsample, CARAFEPack)
    assert set(head.upsample.state_dict()) == {
        f'{layer}.{name}' for name in ('weight', 'bias') for layer in ('channel_compressor', 'content_encoder')
    }
    assert head.upsample.content_encoder.weight.std() < 0.002
    out = head(torch.randn(2, 16, 14, 14))
    out.sum().backward()
    assert out.shape == (2, 3, 28, 28)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    head.zero_grad()
    nothing = head(torch.randn(0, 16, 14, 14))
    nothing.sum().backward()  # a step without foreground
    assert nothing.shape == (0, 3, 28, 28) and all((p.grad == 0).all() for p in head.parameters())


def test_masks_of_equal_weights_average_the_neighbourhood():
    """A content encoder of zeros makes every kernel uniform: the mean over 5x5, zeros beyond the border."""
    pack = DeviceAgnosticCARAFEPack(4, 2, compressed_channels=8)
    for parameter in pack.content_encoder.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 6, 7)
    mean = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    torch.testing.assert_close(pack(x), mean.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize('groups', [1, 2])
def test_kernels_are_those_of_mmcv(groups):
    ours, mmcvs = DeviceAgnosticCARAFEPack(4, 2, up_group=groups), CARAFEPack(4, 2, up_group=groups)
    encoded = torch.randn(2, 25 * groups * 4, 3, 5)
    torch.testing.assert_close(ours.kernel_normalizer(encoded), mmcvs.kernel_normalizer(encoded))


def test_works_under_autocast():
    pack, x = DeviceAgnosticCARAFEPack(4, 2, compressed_channels=8), torch.randn(1, 4, 6, 7, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = pack(x)
    out.sum().backward()
    torch.testing.assert_close(out.float(), pack(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('compiled, expected', [('12.1', 'mmcv'), ('not available', 'ours')])
def test_mmcv_serves_cuda_tensors_where_it_was_compiled_for_them(monkeypatch, compiled, expected):
    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(file_under_test, 'get_compiling_cuda_version', lambda: compiled)
    monkeypatch.setattr(file_under_test, 'carafe', lambda *args: 'ours')
    monkeypatch.setattr(CARAFEPack, 'feature_reassemble', lambda *args: 'mmcv')
    x = torch.zeros(1, 4, 2, 2).as_subclass(OnCuda)
    assert DeviceAgnosticCARAFEPack(4, 2).feature_reassemble(x, torch.zeros(1)) == expected
