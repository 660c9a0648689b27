import copy
import pickle

import numpy as np
import pytest
import torch
from helpers.memory import saved_bytes
from helpers.recordings import image, load, value
from helpers.replicas import replica_of
from helpers.torch_features import compiles_in_one_graph

from apa_mmdet.models.activations import MetaAconC
from apa_mmdet.models.backbones import SEResNet


def formula(act, x):
    """Computes β with matrix products, then ACON-C."""

    def linear(fc, norm, x):
        x = x @ fc.weight[:, :, 0, 0].T + (0 if fc.bias is None else fc.bias)
        return x if isinstance(norm, torch.nn.Identity) else norm(x[..., None, None])[..., 0, 0]

    spread = [1] * (x.dim() - 2)
    beta = torch.sigmoid(linear(act.fc2, act.bn2, linear(act.fc1, act.bn1, x.flatten(2).mean(2) if spread else x)))
    p1, p2, beta = act.p1.view(-1, *spread), act.p2.view(-1, *spread), beta.view(*beta.shape, *spread)
    return (p1 - p2) * x * torch.sigmoid(beta * (p1 - p2) * x) + p2 * x


def gradient_scales(act):
    """Sums of the absolute terms of the convolutions' gradients, by name; filled by the next backward.

    In training a batch norm subtracts nearly all of the gradient before it, that of the bias even whole. What is left
    has the rounding errors of the terms, |gradient after the norm|·|weight|/deviation·|input of the convolution|.
    """
    scales = {}

    def watch(name, conv, norm):
        def record(module, x, out):
            gain = norm.weight.detach().abs() * (x[0].detach().var((0, 2, 3), unbiased=False) + norm.eps).rsqrt()
            image = conv_input[0].abs().amax().item()

            def keep(grad):
                terms = (grad.abs().sum((0, 2, 3)) * gain).max().item()
                scales[f'grad_{name}.bias'], scales[f'grad_{name}.weight'] = terms, terms * image

            out.register_hook(keep)

        conv_input = []
        conv.register_forward_pre_hook(lambda module, x: conv_input.insert(0, x[0].detach()))
        norm.register_forward_hook(record)

    watch('fc1', act.fc1, act.bn1)
    watch('fc2', act.fc2, act.bn2)
    return scales


@pytest.mark.parametrize('case, channels, width', [('eval', 32, 16), ('train', 32, 16), ('wide_eval', 512, 32)])
def test_agrees_with_the_official_implementation(case, channels, width):
    recorded, act = load('acon.npz'), MetaAconC(channels).train(case == 'train')
    shapes = {key: (1, channels, 1, 1) if key in ('p1', 'p2') else t.shape for key, t in act.state_dict().items()}
    act.load_state_dict({key: torch.from_numpy(value(key, shape)) for key, shape in shapes.items()})
    assert act.fc1.out_channels == act.bn1.num_features == width
    x = torch.from_numpy(image((4, channels, 5, 7), 2)).requires_grad_()
    scales = gradient_scales(act)
    out = act(x)
    out.backward(torch.from_numpy(np.random.default_rng([79, 0]).normal(0, 1, out.shape).astype(np.float32)))
    got = dict(out=out.detach(), grad_input=x.grad, **{f'grad_{name}': p.grad for name, p in act.named_parameters()})
    assert {f'meta_acon_c_{case}/{name}' for name in got} == {key for key in recorded if f'_c_{case}/' in key}
    for name, tensor in got.items():
        want = recorded[f'meta_acon_c_{case}/{name}'].reshape(tensor.shape)
        atol = 1e-6 * max(1.0, abs(want).max(), scales.get(name, 0))
        np.testing.assert_allclose(tensor.numpy(), want, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), None], ids=['norm', 'no norm'])
@pytest.mark.parametrize('shape', [(3, 6), (3, 6, 4), (3, 6, 4, 5), (3, 6, 2, 3, 2)])
def test_agrees_with_the_formula_in_any_number_of_dimensions(shape, norm_cfg, training):
    act = MetaAconC(6, norm_cfg=norm_cfg).double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outs = [f(x) for f in (act, lambda x: formula(act, x))]
    torch.testing.assert_close(*outs)
    weights, wanted = torch.randn(shape, dtype=torch.float64), [x, *act.parameters()]
    for got, want in zip(*(torch.autograd.grad((out * weights).sum(), wanted) for out in outs)):
        torch.testing.assert_close(got, want)


def test_without_norms_there_are_no_biases():
    assert set(MetaAconC(6, norm_cfg=None).state_dict()) == {'p1', 'p2', 'fc1.weight', 'fc2.weight'}


@pytest.mark.parametrize('channels, reduction, width', [(6, 16, 16), (256, 16, 16), (512, 16, 32), (512, 4, 128)])
def test_width(channels, reduction, width):
    assert MetaAconC(channels, reduction).fc1.weight.shape == (width, channels, 1, 1)


@pytest.mark.parametrize('images', [0, 1])
def test_fewer_than_two_images_are_normalized_by_the_running_statistics(images):
    act = MetaAconC(6)
    act(torch.randn(4, 6, 3, 3))  # so that there are some
    before, x = copy.deepcopy(act.state_dict()), torch.randn(images, 6, 3, 3)
    out = act(x)
    assert torch.equal(out, copy.deepcopy(act).eval()(x))
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in act.parameters())
    assert all(torch.equal(t, before[name]) for name, t in act.state_dict().items())
    act(torch.randn(2, 6, 3, 3))
    assert not torch.equal(act.bn1.running_mean, before['bn1.running_mean']), 'two images have statistics of their own'


def test_half_weights_and_channels_last():
    act = MetaAconC(6).eval()
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    assert act(x).is_contiguous(memory_format=torch.channels_last)
    want = act(x)
    assert (act.bfloat16()(x.bfloat16()) - want).abs().max() < 0.05


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize(
    'norm_cfg',
    [dict(type='BN'), dict(type='BN', affine=False), dict(type='GN', num_groups=2), None],
    ids=['BN', 'no affine', 'GN', 'no norm'],
)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('images', [1, 4])
def test_half_weights_and_large_inputs(images, dtype, norm_cfg, training):
    """Values, statistics and gradients are those of a float32 copy; those too large for ``dtype`` are infinite."""
    act = MetaAconC(64, norm_cfg=norm_cfg)
    act(torch.randn(4, 64, 3, 3))  # so that there are statistics
    act.to(dtype).train(training)
    single, before = copy.deepcopy(act).float(), copy.deepcopy(act.state_dict())
    x = (torch.randn(images, 64, 1, 1).sign() * 1e4).expand(-1, -1, 3, 2).to(dtype).requires_grad_()
    y = x.detach().float().requires_grad_()
    torch.testing.assert_close(copy.deepcopy(act).beta_of(x), copy.deepcopy(single).beta_of(y))

    got, want = act(x), single(y)
    got.float().sum().backward()
    want.sum().backward()
    assert got.isfinite().all() and x.grad.isfinite().all()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got, want.to(dtype))
    largest = y.grad.abs().max().item()  # of two parts, each rounded: to the activation's input and to β's
    torch.testing.assert_close(x.grad, y.grad.to(dtype), rtol=eps, atol=eps * largest)
    for p, q in zip(act.parameters(), single.parameters()):
        torch.testing.assert_close(p.grad, q.grad.to(dtype), rtol=eps, atol=1e-3)
    for name, tensor in act.state_dict().items():
        assert tensor.dtype == before[name].dtype
        torch.testing.assert_close(tensor, single.state_dict()[name].to(tensor.dtype))
    if norm_cfg and norm_cfg['type'] == 'BN':
        moved = training and images > 1
        assert act.bn1.num_batches_tracked == 1 + moved
        assert torch.equal(act.bn1.running_mean, before['bn1.running_mean']) != moved
        assert torch.equal(act.bn2.running_var, before['bn2.running_var']) != moved


def test_half_weights_of_a_replica():
    act, x = MetaAconC(6).bfloat16().eval(), torch.randn(2, 6, 4, 4).bfloat16()
    results = [torch.autograd.grad(net(x).sum(), list(act.parameters())) for net in (replica_of(act), act)]
    assert all(torch.equal(a, b) for a, b in zip(*results))


@compiles_in_one_graph
@pytest.mark.skipif(
    torch.__version__.startswith('2.11.'), reason='Dynamo of torch 2.11 cannot read attributes of a part'
)
def test_half_weights_compile_into_one_graph_and_trace():
    act, x = MetaAconC(6).bfloat16(), torch.randn(2, 6, 4, 4).bfloat16()
    torch._dynamo.reset()
    for other in (torch.compile(act, backend='aot_eager', fullgraph=True), torch.jit.trace(act.eval(), x)):
        torch.testing.assert_close(other(x), act(x))


def test_with_all_parameters_frozen_it_stays_in_eval_mode():
    act = MetaAconC(6).requires_grad_(False)
    for same in (act, copy.deepcopy(act), pickle.loads(pickle.dumps(act))):
        assert not any(part.training for part in same.train().modules())
    act.p1.requires_grad_(True)
    assert all(part.training for part in act.train().modules())


@pytest.mark.parametrize('norm_cfg', [dict(type='BN', eps=0.1), dict(type='SyncBN', eps=0.1)])
def test_a_single_image_is_normalized_as_in_eval_mode(norm_cfg):
    act, x = MetaAconC(6, norm_cfg=norm_cfg), torch.randn(1, 6, 3, 3)
    alone = act(x)
    act.bn1, act.bn2 = (torch.nn.BatchNorm2d(n.num_features, eps=0.1) for n in (act.bn1, act.bn2))
    torch.testing.assert_close(alone, act.eval()(x))


def test_the_mean_of_a_large_half_precision_plane_does_not_overflow():
    act = MetaAconC(2, norm_cfg=None)
    x = torch.full((1, 2, 40, 40), 1e3)  # 1.6e6 in all
    torch.testing.assert_close(act.beta_of(x.half()), act.beta_of(x))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_keeps_its_input_and_nothing_else_that_grows_with_the_image(dtype):
    act, x = MetaAconC(6), torch.randn(2, 6, 200, 100).to(dtype).requires_grad_()
    kept = saved_bytes(lambda: act(x), (*act.parameters(), *act.buffers()))
    assert x.numel() * x.element_size() <= kept < x.numel() * x.element_size() + 4000


def test_frozen_stages_and_norm_eval_reach_its_norms():
    net = SEResNet(18, act_cfg=dict(type='MetaAconC'), frozen_stages=1, norm_eval=True).train()
    net(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    acts = {name: m for name, m in net.named_modules() if isinstance(m, MetaAconC)}
    assert len(acts) == 17
    for name, act in acts.items():
        assert not act.bn1.training and not act.bn2.training and (act.bn1.running_mean == 0).all(), name
        frozen = name.startswith(('act_stem', 'layer1'))
        assert all(p.requires_grad != frozen and (p.grad is None) == frozen for p in act.parameters()), name


def test_large_inputs_stay_finite():
    act = MetaAconC(6)
    x = (torch.randn(2, 6, 5, 4) * 1e4).requires_grad_()
    act(x).sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *act.parameters()))


@pytest.mark.parametrize('shape', [(2, 5, 3, 3), (6,)])
def test_inputs_and_arguments_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r'MetaAconC of 6 channels got an input of shape .*; it takes \(N, 6, …\)'):
        MetaAconC(6)(torch.zeros(shape))
    with pytest.raises(ValueError, match='MetaAconC: num_features must be at least 1, got 0'):
        MetaAconC(0)
    with pytest.raises(ValueError, match='MetaAconC: reduction must be at least 1, got 0'):
        MetaAconC(6, reduction=0)
