"""The figures of types show the curves of the formulas for the values in their legends."""

import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mmengine.registry import MODELS

from apa_mmdet.models.activations import AGLU, LearnableActivation, learnable_activations
from apa_mmdet.models.activations.base import Symbol
from apa_mmdet.models.activations.sites import find_learnable_activations
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.visualization import activation_plots as plots
from apa_mmdet.visualization.activation_curves import POINTS
from apa_mmdet.visualization.learned_activation_plots import learned_curves


def aglu(x, lambda_, kappa):
    return x * (lambda_ * np.exp(-kappa * x) + 1) ** (-1 / lambda_)


def acon(x, p1, p2, beta):
    return (p1 - p2) * x / (1 + np.exp(-beta * (p1 - p2) * x)) + p2 * x


def apalu(x, a, b):
    return np.where(x >= 0, a * (x + x / (1 + np.exp(-1.702 * np.maximum(x, 0)))), b * np.expm1(x))


def lines(axis):
    return [line for line in axis.get_lines() if len(line.get_xdata()) == POINTS]


def labels(axis):
    """The values of the parameter that the curves of a column are labelled with."""
    return [float(line.get_label().split(' = ')[1].replace('−', '-')) for line in lines(axis)]


@pytest.mark.parametrize(
    'name, column, title, formula',
    [
        ('AGLU', 0, 'λ varies, κ = 1', lambda x, v: aglu(x, v, 1)),
        ('AGLU', 1, 'κ varies, λ = 1', lambda x, v: aglu(x, 1, v)),
        ('APA', 1, 'κ varies, λ = 1', lambda x, v: 1 / (1 + np.exp(-v * x))),
        ('AconA', 0, 'β varies', lambda x, v: x / (1 + np.exp(-v * x))),
        ('AconB', 0, 'p₂ varies, β = 1', lambda x, v: acon(x, 1, v, 1)),
        ('AconC', 0, 'p₁ varies, p₂ = 0, β = 1', lambda x, v: acon(x, v, 0, 1)),
        ('AconC', 2, 'β varies, p₁ = 1, p₂ = 0', lambda x, v: acon(x, 1, 0, v)),
        ('MetaAconC', 1, 'p₂ varies, p₁ = 1, β = 0.5', lambda x, v: acon(x, 1, v, 0.5)),
        ('APALU', 0, 'a varies, b = 0.75', lambda x, v: apalu(x, v, 0.75)),
        ('APALU', 1, 'b varies, a = 0.5', lambda x, v: apalu(x, 0.5, v)),
    ],
)
def test_each_column_shows_the_formula_and_its_derivative(name, column, title, formula):
    figure = plots.type_figure(name, 4)
    columns = len(figure.axes) // 2
    upper, lower = figure.axes[column], figure.axes[columns + column]
    assert upper.get_title() == title and len(lines(upper)) == len(lines(lower)) >= 4
    x = np.linspace(-4, 4, POINTS)
    for value, line, slope in zip(labels(upper), lines(upper), lines(lower)):
        np.testing.assert_allclose(line.get_xdata(), x, atol=1e-6)
        np.testing.assert_allclose(line.get_ydata(), formula(x, value), atol=1e-5)
        central = (formula(x + 1e-4, value) - formula(x - 1e-4, value)) / 2e-4
        keep = np.isfinite(slope.get_ydata()) & (np.abs(x) > 1e-3)
        assert keep.sum() >= POINTS - 2
        np.testing.assert_allclose(slope.get_ydata()[keep], central[keep], atol=1e-3)


def test_the_beta_of_meta_acon_lies_between_0_and_1():
    found = labels(plots.type_figure('MetaAconC', 4).axes[2])
    assert 0 < min(found) < 0.1 and 0.9 < max(found) < 1


def test_a_derivative_has_gaps_only_where_it_jumps():
    def gaps(name):
        axes = plots.type_figure(name, 4).axes
        return [int(np.isnan(line.get_ydata()).sum()) for axis in axes for line in lines(axis)]

    assert gaps('ReLU') == [0, 1] and gaps('SiLU') == [0, 0] and not any(gaps('APA') + gaps('AconC'))
    assert gaps('APALU') == [0] * 8 + [1, 0, 1, 1] + [1, 1, 0, 1]  # none at b = 1.5a


class Shifted(AGLU):
    """A subclass of an activation, with symbols of its own."""

    symbols = dict(kappa=Symbol('κ', (1, 2), 1))
    fixed = dict(lambda_=0.5)


class Slope(LearnableActivation):
    """A new activation that sets no symbols."""

    def __init__(self, num_features=None):
        super().__init__(num_features)
        self.slope = torch.nn.Parameter(torch.full((num_features,), 0.5))

    def forward(self, x):
        return torch.where(x > 0, x, x * self.slope.view(-1, *[1] * (x.dim() - 2)))


@pytest.fixture
def registered():
    for cls in (Shifted, Slope):
        MODELS.register_module(module=cls)
    yield
    for cls in (Shifted, Slope):
        del MODELS.module_dict[cls.__name__]


def test_a_subclass_and_a_new_activation_are_drawn_without_being_listed_anywhere(registered):
    assert list(learnable_activations())[-2:] == ['Shifted', 'Slope']
    assert len(lines(plots.type_figure('Shifted', 4).axes[0])) == 2
    assert len(lines(plots.type_figure('Slope', 4).axes[0])) == 1
    sites = find_learnable_activations(torch.nn.Sequential(Slope(3), torch.nn.ReLU(), Shifted(2)))
    assert [site.name for site in sites] == ['0', '2']
    assert [learned_curves(site.activation, 4).value.shape[1] for site in sites] == [3, 2]


def test_figures_of_types_are_written(tmp_path):
    paths = plots.draw_types(['AGLU', 'GELU'], tmp_path / 'new')
    assert [path.name for path in paths] == ['AGLU.png', 'GELU.png']
    for path in paths:
        figure = cv2.imread(str(path))
        assert min(figure.shape[:2]) > 400 and figure.std() > 10


@pytest.mark.parametrize(
    'name, code, message',
    [
        ('AGLUU', 'unknown-activation', "'AGLUU' is not registered; the learnable activations are AGLU, APA"),
        (
            'SELayer',
            'not-an-activation',
            "'SELayer' is registered, but is not an elementwise activation that can be built from its name",
        ),
        ('Dropout', 'not-an-activation', "'Dropout' is registered, but is not an elementwise activation"),
    ],
)
def test_a_type_that_cannot_be_drawn_is_named(name, code, message, tmp_path):
    with pytest.raises(CodedError, match=message) as error:
        plots.draw_types(['APA', name], tmp_path)
    assert error.value.code == code
    assert not list(tmp_path.iterdir())


def test_the_tool_prints_one_line_per_figure_or_error(tmp_path, monkeypatch, capsys):
    def tool(*arguments):
        monkeypatch.setattr(sys, 'argv', ['plot_activations.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/plot_activations.py'), run_name='__main__')
        return ended.value.code

    assert tool('--types', 'SiLU', '--out', tmp_path) is None
    assert capsys.readouterr().out == f'written: {tmp_path / "SiLU.png"}\n'
    assert tool(tmp_path / 'none.pth') == f'plot_activations: missing: {tmp_path / "none.pth"}'
    for arguments, message in (
        (['--limit', '-1'], "'-1' is not a number above 0"),
        (['--config', 'a.py'], '--config needs a checkpoint'),
        (['a.pth', '--types', 'APA'], '--types and a checkpoint exclude each other'),
    ):
        assert tool(*arguments) == 2 and message in capsys.readouterr().err
