"""What the launcher asks Triton for, without a launch: how many kernels run, and how many have to be compiled."""

import importlib.util

import pytest
import torch

pytest.importorskip('triton', reason='Triton is not installed')

from helpers.preceding import BEFORE, draw, with_norms
from helpers.triton_variants import recorded_launches, resized, sizes_of_training, variant, variants

from apa_mmdet import ops
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.memory_layout import Arguments

MOST_VARIANTS = 30


@pytest.mark.parametrize('before', BEFORE)
@pytest.mark.parametrize('curve', [(), (6,)])
def test_a_call_is_one_launch_forward_and_two_backward(before, curve):
    x = torch.randn(2, 6, 4, 5, requires_grad=True)
    given, statistics = draw(BEFORE[before], x.detach())
    given.update(lambda_=torch.rand(curve), kappa=torch.rand(()))
    given = {key: t.requires_grad_() for key, t in given.items()}
    with ops.use_backend('triton'), recorded_launches() as launches:
        out = with_norms(ops.aglu, statistics)(x, **given)
        assert [launch.kernel for launch in launches] == ['forward_kernel']
        out.sum().backward()
    assert [launch.kernel for launch in launches[1:]] == ['backward_kernel', 'finish_kernel']


def test_a_network_launches_once_a_site_forward_and_at_most_twice_backward():
    net, x = SEResNet(50, base_channels=8, stem_channels=8, norm_eval=True).train(), torch.randn(1, 3, 32, 32)
    sites = 1 + 16 * 3 + 16  # stem, a block's three activations, its gate
    with ops.use_backend('triton'), recorded_launches() as launches:
        features = net(x)
        forward = len(launches)
        sum(f.sum() for f in features).backward()
    assert forward == sites and len(launches) - forward <= 2 * sites


def test_other_sizes_of_image_need_no_more_kernels():
    with recorded_launches() as launches:
        for size in ((640, 672), (672, 640), (800, 1344), (1088, 736)):
            x = torch.empty(2, 64, 16, 16)
            args = resized(Arguments(x, *[torch.rand(1)] * 2, weight=torch.rand(64)), *size)
            assert args.x.shape == (2, 64, size[0] // 4, size[1] // 4)
            ops.backends()['triton'].forward('aglu', args)
    assert len(launches) == 4 and len(set(map(variant, launches))) == 1


@pytest.mark.slow
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_multi_scale_training_compiles_few_kernels(dtype, memory_format):
    assert 10 < len(variants(dtype, memory_format, sizes_of_training(300))) <= MOST_VARIANTS


class Compiled:
    """A compiled kernel, which takes the arguments of a launch in the order of the signature."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.kernel[grid]


class Jit:
    """A kernel as Triton's compiler makes it of a function; it counts how often a compiled one was searched for."""

    def __init__(self, kernel):
        self.kernel, self.arg_names, self.searches = kernel, kernel.arg_names, 0

    def __getitem__(self, grid):
        def search(*values, num_warps, enable_fp_fusion=True, **constants):
            self.searches += 1
            self.kernel[grid](*values, **constants)
            return Compiled(self.kernel)

        return search


@pytest.mark.skipif(
    importlib.util.find_spec('triton.runtime.interpreter') is None and not torch.cuda.is_available(),
    reason='Triton 2 has no interpreter, and there is no GPU',
)
def test_a_kernel_is_searched_for_once_and_then_launched(monkeypatch):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    jit, one = Jit(launcher.forward_kernel), torch.ones(1, device=device)
    monkeypatch.setattr(launcher, 'forward_kernel', jit)
    monkeypatch.setattr(launcher, 'LAUNCHES_COMPILED', True)
    z = torch.randn(2, 4, 8, 8, device=device)
    shifted = torch.cat([z.flatten()[:1], z.flatten()])[1:].view(z.shape)  # not at a multiple of 16 bytes
    norm = ops.Norm(weight=torch.rand(4, device=device), bias=torch.rand(4, device=device))
    calls = [(z, None, 1), (z[:1], None, 1), (z, norm, 2), (z.double(), None, 3), (z, None, 3), (shifted, None, 4)]
    for x, given, searches in calls:
        with ops.use_backend('triton'):
            got = ops.aglu(x, one, one, norm=given)
        with ops.use_backend('analytic'):
            torch.testing.assert_close(got, ops.aglu(x, one, one, norm=given))
        assert jit.searches == searches
