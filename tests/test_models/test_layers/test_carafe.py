"""DeviceAgnosticCARAFEPack against mmcv's CARAFEPack."""

import sys

import pytest
import torch
from mmcv.ops.carafe import CARAFEPack

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack


def test_uniform_kernels_average_the_neighborhood():
    """A content encoder of zeros makes every kernel uniform: the mean over 5x5, with zeros beyond the border."""
    pack = DeviceAgnosticCARAFEPack(4, 2, compressed_channels=8)
    for parameter in pack.content_encoder.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 6, 7)
    mean = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    torch.testing.assert_close(pack(x), mean.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize('groups', [1, 2])
def test_normalized_kernels_match_mmcv(groups):
    ours, stock = DeviceAgnosticCARAFEPack(4, 2, up_group=groups), CARAFEPack(4, 2, up_group=groups)
    encoded = torch.randn(2, 25 * groups * 4, 3, 5)
    torch.testing.assert_close(ours.kernel_normalizer(encoded), stock.kernel_normalizer(encoded))


def test_result_under_autocast_is_close_to_float32():
    pack, x = DeviceAgnosticCARAFEPack(4, 2, compressed_channels=8), torch.randn(1, 4, 6, 7, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = pack(x)
    out.sum().backward()
    torch.testing.assert_close(out.float(), pack(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('compiled, expected', [('12.1', 'mmcv'), ('not available', 'ours')])
def test_cuda_tensors_go_to_mmcv_where_it_was_compiled_for_cuda(monkeypatch, compiled, expected):
    class OnCuda(torch.Tensor):
        is_cuda = True

    module = sys.modules[DeviceAgnosticCARAFEPack.__module__]
    monkeypatch.setattr(module, 'get_compiling_cuda_version', lambda: compiled)
    monkeypatch.setattr(module, 'carafe', lambda *args: 'ours')
    monkeypatch.setattr(CARAFEPack, 'feature_reassemble', lambda *args: 'mmcv')
    x = torch.zeros(1, 4, 2, 2).as_subclass(OnCuda)
    assert DeviceAgnosticCARAFEPack(4, 2).feature_reassemble(x, torch.zeros(1)) == expected
