"""The figures of a network show every activation with the parameters of the checkpoint, in the panel of its slot."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.visualization import learned_activation_plots as plots
from apa_mmdet.visualization.activation_curves import POINTS
from apa_mmdet.visualization.activation_curves import save as save_figure

MODEL = dict(type='SEResNet', depth=18)


def aglu(x, lambda_, kappa):
    return x * (lambda_ * np.exp(-kappa * x) + 1) ** (-1 / lambda_)


def acon(x, p1, p2, beta):
    return (p1 - p2) * x / (1 + np.exp(-beta * (p1 - p2) * x)) + p2 * x


def build(cfg):
    init_default_scope('mmdet')
    return MODELS.build(cfg)


def run_folder(folder):
    """The checkpoint to be, with its config beside it as a run leaves it, and the model."""
    (folder / 'small.py').write_text(f'model = {MODEL}')
    return folder / 'epoch_1.pth', build(MODEL)


def save(model, path):
    torch.save(dict(state_dict=model.state_dict()), path)


def lines(axis):
    return [line for line in axis.get_lines() if len(line.get_xdata()) == POINTS]


def test_every_activation_is_drawn_in_the_panel_of_its_slot(tmp_path):
    checkpoint, model = run_folder(tmp_path)
    for i, block in enumerate(model.layer3):
        nn.init.constant_(block.act_out.lambda_, 1 + i)
        nn.init.constant_(block.act_out.kappa, 2)
    sites = plots.find_learnable_activations(model)
    assert len(sites) == 1 + 8 * 3
    figure = plots.learned_figure(sites, 'title', slope=False, limit=3)
    axes = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert set(axes) == {'stem', *(f'layer{n} {slot}' for n in (1, 2, 3, 4) for slot in ('conv1', 'out', 'se gate'))}
    assert sum(len(lines(axis)) for axis in axes.values()) == len(sites)
    first, second = lines(axes['layer3 out'])
    x = np.linspace(-3, 3, POINTS)
    np.testing.assert_allclose(first.get_ydata(), aglu(x, 1, 2), atol=1e-5)
    np.testing.assert_allclose(second.get_ydata(), aglu(x, 2, 2), atol=1e-5)
    assert sum(first.get_color()[:3]) < sum(second.get_color()[:3]), 'from dark to light with depth'


def test_a_checkpoint_is_drawn_with_the_config_beside_it(tmp_path):
    checkpoint, model = run_folder(tmp_path)
    save(model, checkpoint)
    paths = plots.draw_checkpoint(checkpoint, None, tmp_path / 'out', limit=2)
    run = tmp_path.name
    assert [path.name for path in paths] == [f'{run}_small_epoch_1_{what}.png' for what in ('values', 'derivatives')]
    assert all(cv2.imread(str(path)).std() > 10 for path in paths)


def test_values_and_derivatives_have_a_figure_each(tmp_path):
    sites = plots.find_learnable_activations(nn.Sequential(build(dict(type='AGLU'))))
    for path, slope in zip(plots.draw_learned_activations(sites, 'title', tmp_path, 'one'), (False, True)):
        assert path.name == f'one_{"derivatives" if slope else "values"}.png'
        expected = save_figure(plots.learned_figure(sites, 'title', slope, limit=5), tmp_path / 'expected.png')
        assert path.read_bytes() == expected.read_bytes()


def test_a_long_title_is_wrapped_in_a_narrow_figure():
    sites = plots.find_learnable_activations(nn.Sequential(build(dict(type='AGLU'))))
    figure = plots.learned_figure(sites, 'mask_rcnn_se_r50_relu_sigmoid_2x, iteration 137520', slope=False, limit=5)
    title = next(text for text in figure.texts if text.get_text() == figure.get_suptitle())
    assert title.get_window_extent().width <= figure.bbox.width


@pytest.mark.parametrize('of_detector', [False, True])
def test_activations_load_the_weights_of_a_detector_or_its_backbone(of_detector, tmp_path):
    ours, trained = (nn.ModuleDict(dict(backbone=build(dict(type='SEResNet', depth=18)))) for _ in range(2))
    sites = plots.find_learnable_activations(ours)
    plots.load_sites(sites, (trained if of_detector else trained.backbone).state_dict(), Path('weights.pth'))
    for site, other in zip(sites, plots.find_learnable_activations(trained)):
        assert site.name == other.name and torch.equal(site.activation.kappa, other.activation.kappa)


def test_find_learnable_activations_other_models_have_their_own_names():
    model = nn.ModuleDict(
        dict(
            neck=nn.Sequential(MODELS.build(dict(type='AGLU'))),
            backbone=build(
                dict(type='SwapActivations', module=dict(type='ResNet', depth=18), swap=dict(ReLU=dict(type='AGLU')))
            ),
        )
    )
    places = [(site.stage, site.slot) for site in plots.find_learnable_activations(model)]
    assert places[0] == ('neck', 'neck.0') and ('backbone', 'relu') in places
    assert places.count(('layer2', 'relu.0')) == places.count(('layer2', 'relu.1')) == 2
    figure = plots.learned_figure(plots.find_learnable_activations(model), '', slope=True, limit=3)
    assert sum(len(lines(axis)) for axis in figure.axes) == len(places)


@pytest.mark.parametrize(
    'name, stages',
    [
        ('dino_r50_aglu', [f'{part}.layers.{i}' for part in ('encoder', 'decoder') for i in range(6)]),
        (
            'rtmdet_tiny_aglu',
            [
                'backbone',
                *(f'stage{i}' for i in (1, 2, 3, 4)),
                'neck.reduce_layers.0',
                'neck.reduce_layers.1',
                'neck.top_down_blocks.0',
                'neck.top_down_blocks.1',
                'neck',
                'neck.bottom_up_blocks.0',
                'neck.bottom_up_blocks.1',
                'bbox_head',
            ],
        ),
    ],
)
def test_parts_of_a_detector_do_not_share_a_panel(name, stages):
    with torch.device('meta'):
        sites = plots.find_learnable_activations(build(Config.fromfile(ROOT / f'configs/any_detector/{name}.py').model))
    assert list(dict.fromkeys(site.stage for site in sites)) == stages


def test_a_single_row_of_panels_is_continued_below():
    layers = nn.ModuleDict({part: nn.Module() for part in ('encoder', 'decoder')})
    for part in layers.values():
        part.layers = nn.ModuleList(nn.ModuleDict(dict(act=build(dict(type='AGLU')))) for _ in range(4))
    figure = plots.learned_figure(plots.find_learnable_activations(layers), '', slope=False, limit=3)
    drawn = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in drawn] == [f'{part}.layers.{i} act' for part in layers for i in range(4)]
    assert all(len(lines(axis)) == 1 for axis in drawn)
    assert drawn[0].get_subplotspec().get_gridspec().get_geometry() == (2, 6)


@pytest.mark.parametrize('name', ['AconC', 'MetaAconC', 'APALU'])
def test_an_activation_with_parameters_per_channel_has_a_curve_for_each_channel(name):
    activation = build(dict(type=name, num_features=3))
    with torch.no_grad():
        for p in activation.parameters():
            p.add_(torch.rand_like(p))
    x = np.linspace(-3, 3, POINTS)
    found = plots.learned_curves(activation, 3)
    if name == 'MetaAconC':
        assert found.value.shape == (POINTS, 9)
        p1, p2, weight, bias = (
            p.detach().numpy().reshape(-1).astype(float)
            for p in (activation.p1, activation.p2, activation.bn2.weight, activation.bn2.bias)
        )
        for i, t in enumerate((-1, 0, 1)):
            beta = 1 / (1 + np.exp(-bias[2] - t * abs(weight[2])))
            np.testing.assert_allclose(found.value[:, 3 * i + 2], acon(x, p1[2], p2[2], beta), atol=1e-5)
        return
    z = torch.tensor(x, dtype=torch.float32)[:, None].repeat(1, 3)
    np.testing.assert_allclose(found.value, activation(z[:, :, None, None]).detach().numpy()[:, :, 0, 0], atol=1e-6)


def test_the_typical_betas_of_meta_acon_have_the_statistics_of_its_inputs():
    torch.manual_seed(0)
    activation = build(dict(type='MetaAconC', num_features=3))
    nn.init.normal_(activation.bn2.weight), nn.init.normal_(activation.bn2.bias)
    with torch.no_grad():
        found = torch.logit(activation.train().beta_of(torch.randn(20000, 3)))
    low, middle, high = torch.logit(activation.typical_betas())
    torch.testing.assert_close(found.mean(0), middle, atol=0.01, rtol=0)
    torch.testing.assert_close(found.std(0), (high - low) / 2, atol=0.01, rtol=0.01)


def test_beta_of_meta_acon_without_norm_is_drawn_over_its_range():
    activation = build(dict(type='MetaAconC', num_features=3, norm_cfg=None))
    found, x = plots.learned_curves(activation, 3), np.linspace(-3, 3, POINTS)
    assert found.value.shape == (POINTS, 15)
    np.testing.assert_allclose(
        found.value[:, 7], acon(x, activation.p1[1].item(), activation.p2[1].item(), 0.5), atol=1e-5
    )
    model = build(dict(type='SEResNet', depth=18, act_cfg=dict(type='MetaAconC', norm_cfg=None)))
    title = plots.learned_figure(plots.find_learnable_activations(model), 'title', slope=False, limit=3).get_suptitle()
    assert title.endswith('β depends on the input and has no norm: from 0.05 to 0.95') and 'usual' not in title


@pytest.mark.parametrize('slope', [False, True])
def test_every_line_is_the_curve_of_a_channel(slope):
    model = build(dict(type='SEResNet', depth=18, act_cfg=dict(type='MetaAconC')))
    sites = plots.find_learnable_activations(model)
    figure = plots.learned_figure(sites, 'title', slope, limit=3)
    panels = {title: lines(axis) for axis in figure.axes if (title := axis.get_title()) and 'gate' not in title}
    assert {len(panel) for panel in panels.values()} == {plots.MAX_CURVES + 1, plots.MAX_CURVES + 2}
    found = plots.learned_curves(sites[0].activation, 3)
    of_channels = found.slope if slope else found.value
    drawn = [np.flatnonzero((of_channels == line.get_ydata()[:, None]).all(0)) for line in panels['stem']]
    assert all(len(channel) == 1 for channel in drawn) and len(np.unique(drawn)) >= plots.MAX_CURVES
    thick = [line.get_linewidth() > 1 for line in panels['stem']]
    assert thick == [False] * plots.MAX_CURVES + [True]
    distance = np.abs(found.value - np.median(found.value, 1, keepdims=True)).sum(0)
    assert distance.argmin() == drawn[-1]
    assert (
        'thick: the channel nearest to the median' in figure.get_suptitle() and 'usual inputs' in figure.get_suptitle()
    )


def test_official_shapes_load_and_a_folder_named_as_its_config_is_named_once(tmp_path):
    run = tmp_path / 'small'
    run.mkdir()
    cfg = dict(type='SEResNet', depth=18, act_cfg=dict(type='AconC'))
    (run / 'small.py').write_text(f'model = {cfg}')
    weights = {
        key: value[None, :, None, None] if key.endswith(('.p1', '.p2', '.beta')) else value
        for key, value in build(cfg).state_dict().items()
    }
    torch.save(dict(state_dict=weights), run / 'epoch_1.pth')
    paths = plots.draw_checkpoint(run / 'epoch_1.pth', None, tmp_path)
    assert [path.name for path in paths] == ['small_epoch_1_values.png', 'small_epoch_1_derivatives.png']


def refused_as(code, line):
    return pytest.raises(CodedError, match=line, check=lambda error: error.code == code)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    checkpoint, _ = run_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        plots.draw_checkpoint(checkpoint, None, tmp_path)
    save(build(dict(type='SEResNet', depth=18, act_cfg=dict(type='ReLU'))), checkpoint)
    with pytest.raises(WrongWeights) as refused:
        plots.draw_checkpoint(checkpoint, None, tmp_path)
    assert refused.value.differences == dict(missing=['act_stem.lambda_', 'act_stem.kappa'], shape=[])
    save(build(dict(type='SEResNet', depth=18, act_cfg=dict(type='AGLU', num_features=None))), checkpoint)
    with pytest.raises(WrongWeights, match=r'first act_stem.lambda_: \(64,\), not \(1,\); use the config that it was'):
        plots.draw_checkpoint(checkpoint, None, tmp_path)
    (tmp_path / 'other.py').write_text("model = dict(type='ResNet', depth=18)")
    with refused_as('no-activation', 'other.py: its model has none of the learnable activations AGLU, APA'):
        plots.draw_checkpoint(checkpoint, tmp_path / 'other.py', tmp_path)
    (tmp_path / 'other.py').write_text('a = 1')
    with refused_as('no-detector', 'other.py has no model; use the config of a detector'):
        plots.draw_checkpoint(checkpoint, tmp_path / 'other.py', tmp_path)
    (tmp_path / 'other.py').write_text("model = dict(type='Nope')")
    with refused_as(
        'not-buildable', "other.py: its model cannot be built: KeyError: '?Nope is not in the mmdet::model"
    ):
        plots.draw_checkpoint(checkpoint, tmp_path / 'other.py', tmp_path)
    (tmp_path / 'other.py').write_text('model = dict(')
    with refused_as('broken', 'config .*other.py: SyntaxError: '):
        plots.draw_checkpoint(checkpoint, tmp_path / 'other.py', tmp_path)
    with refused_as('needs-config', 'holds 2 configs; say with --config which one'):
        plots.draw_checkpoint(checkpoint, None, tmp_path)
    for path in tmp_path.glob('*.py'):
        path.unlink()
    with refused_as('needs-config', 'holds no config; say with --config which one'):
        plots.draw_checkpoint(checkpoint, None, tmp_path)
    assert not list(tmp_path.glob('*.png'))
