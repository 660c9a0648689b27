"""DeviceAgnosticCARAFEPack against mmcv's CARAFEPack."""

import pytest
import torch
from mmcv.ops.carafe import CARAFEPack

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack
from apa_mmdet.models.layers import carafe as carafe_layer


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


@pytest.mark.parametrize('compiled, expected', [('12.1', True), ('not available', False)])
def test_cuda_tensors_go_to_mmcv_where_it_was_compiled_for_cuda(monkeypatch, compiled, expected):
    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(carafe_layer, 'get_compiling_cuda_version', lambda: compiled)
    assert carafe_layer.has_cuda_operator(torch.zeros(1).as_subclass(OnCuda)) is expected
    assert not carafe_layer.has_cuda_operator(torch.zeros(1))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_mmcvs_operator_gets_what_its_cuda_code_takes(strict_operators, monkeypatch, dtype, memory_format):
    pack = DeviceAgnosticCARAFEPack(8, 2, up_group=2)
    x = torch.randn(2, 8, 3, 5).to(dtype).to(memory_format=memory_format)
    mask = pack.kernel_normalizer(torch.randn(2, 200, 3, 5)).to(dtype)
    wanted = values_and_gradients(pack.feature_reassemble, x.double().contiguous(), mask.double())
    monkeypatch.setattr(carafe_layer, 'has_cuda_operator', lambda x: True)
    got = values_and_gradients(pack.feature_reassemble, x, mask.to(memory_format=memory_format))
    assert strict_operators == {'carafe_forward', 'carafe_backward'}
    rtol = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]  # one unit in the last place
    for ours, exact in zip(got, wanted):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=rtol, atol=1e-5)


def values_and_gradients(function, *inputs):
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel()).bfloat16().double().reshape(out.shape)  # no dtype rounds it
    (out.double() * weight).sum().backward()
    return out.detach(), *(x.grad for x in inputs)
