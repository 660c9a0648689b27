"""The pictures hold the curves that the formulas give, for the values that they name."""

import importlib.util
import sys

import cv2
import numpy as np
import pytest
from helpers.paths import ROOT

from apa_mmdet.visualization import activation_plots as plots
from apa_mmdet.visualization.activation_curves import POINTS


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
    'kind, column, title, formula',
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
def test_a_column_shows_the_formula_and_its_derivative(kind, column, title, formula):
    figure = plots.type_figure(kind, 4)
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


def test_a_derivative_is_broken_where_it_jumps_and_nowhere_else():
    def gaps(kind):
        axes = plots.type_figure(kind, 4).axes
        return [int(np.isnan(line.get_ydata()).sum()) for axis in axes for line in lines(axis)]

    assert gaps('ReLU') == [0, 1] and gaps('SiLU') == [0, 0] and not any(gaps('APA') + gaps('AconC'))
    assert gaps('APALU') == [0] * 8 + [1, 0, 1, 1] + [1, 1, 0, 1]  # none at b = 1.5a


def test_pictures_of_types_are_written(tmp_path):
    paths = plots.draw_types(['AGLU', 'GELU'], tmp_path / 'new')
    assert [path.name for path in paths] == ['AGLU.png', 'GELU.png']
    for path in paths:
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 400 and picture.std() > 10


@pytest.mark.parametrize(
    'kind, says',
    [
        ('AGLUU', "'AGLUU' is not registered; this package has APA, AGLU"),
        ('SELayer', "'SELayer' is registered, but is no activation that can be built from its name"),
        ('Dropout', "'Dropout' is registered, but is no activation"),
    ],
)
def test_what_cannot_be_drawn_is_named(kind, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        plots.draw_types(['APA', kind], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_tool_says_in_one_line_what_it_wrote_or_what_is_wrong(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('plot_tool', ROOT / 'tools/plot_activations.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['plot_activations.py', '--types', 'SiLU', '--out', str(tmp_path)])
    assert tool.main() is None and capsys.readouterr().out == f'written: {tmp_path / "SiLU.png"}\n'
    monkeypatch.setattr(sys, 'argv', ['plot_activations.py', str(tmp_path / 'none.pth')])
    said = tool.main()
    assert said.startswith('plot_activations: ') and 'none.pth' in said and '\n' not in said
    for arguments, says in (
        (['--limit', '-1'], "'-1' is not a number above 0"),
        (['--config', 'a.py'], '--config goes with a checkpoint'),
        (['a.pth', '--types', 'APA'], '--types and a checkpoint exclude each other'),
    ):
        monkeypatch.setattr(sys, 'argv', ['plot_activations.py', *arguments])
        with pytest.raises(SystemExit):
            tool.main()
        assert says in capsys.readouterr().err
