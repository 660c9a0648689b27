import io
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT

from apa_mmdet.utils import cli
from apa_mmdet.utils.errors import CodedError


@pytest.mark.parametrize('text', ['-1', '1', '2.0', 'two', '²', ''])
def test_at_least_rejects_what_is_not_a_whole_number_of_that_size(text):
    with pytest.raises(ArgumentTypeError, match='is not a whole number of 2 or more'):
        cli.at_least(2)(text)
    assert cli.at_least(2)('2') == 2
    with pytest.raises(ArgumentTypeError, match='is not a whole number from 2 to 3'):
        cli.at_least(2, 3)('4')


@pytest.mark.parametrize('text', ['nan', 'inf', '0', '-1', 'long', ''])
def test_positive_rejects_what_is_not_a_finite_number_above_0(text):
    with pytest.raises(ArgumentTypeError, match='is not a number above 0'):
        cli.positive(text)
    assert cli.positive('1e-3') == 0.001


@pytest.mark.parametrize('text', ['0', '1', 'nan', '20%', ''])
def test_share_rejects_what_is_not_between_0_and_1(text):
    with pytest.raises(ArgumentTypeError, match='is not a share between 0 and 1'):
        cli.share(text)
    assert cli.share('0.2') == 0.2


def test_config_options_are_parsed_as_mmdetections(capsys):
    parser = cli.Parser('a tool', cfg_options=True)
    assert parser.parse_args(['--cfg-options', 'a.b=1', 'c=[1,x]']).cfg_options == {'a.b': 1, 'c': [1, 'x']}
    for text, reason in (('a', "'a' is not KEY=VALUE"), ('a=(1', "'a=(1' has brackets that do not match")):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', text])
        assert reason in capsys.readouterr().err


def test_help_shows_the_docstring_as_it_is_and_every_default():
    parser = cli.Parser('first line\n\n    second line')
    parser.add_argument('--seed', default=0, help='of the run')
    parser.add_argument('--out', help='file')
    parser.add_argument('--force', action='store_true', help='overwrite')
    text = parser.format_help()
    assert 'first line\n\n    second line' in text and 'of the run (default: 0)' in text
    assert text.count('default') == 1


@pytest.mark.parametrize(
    'raised, code',
    [
        (None, None),
        (FileNotFoundError(2, 'No such file', 'a.json'), 'tool: missing: a.json'),
        (IsADirectoryError(21, 'Is a directory', 'images'), 'tool: images is a folder; name a file'),
        (OSError('disk full'), 'tool: disk full'),
        (CodedError('no-dataset', 'no data set'), 'tool: no data set'),
        (MemoryError('a.pth needs more memory'), 'tool: a.pth needs more memory'),
        (KeyboardInterrupt(), 130),
    ],
    ids=['nothing', 'missing file', 'folder', 'OSError', 'CodedError', 'MemoryError', 'interrupted'],
)
def test_run_ends_the_process_with_the_error_in_one_line(raised, code, monkeypatch):
    def main():
        if raised:
            raise raised

    monkeypatch.setattr('sys.argv', ['tools/tool.py'])
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == code


@pytest.mark.parametrize('returned, code', [('no data', 'tool: no data'), (2, 2), (0, 0)])
def test_run_ends_the_process_with_what_main_returns(returned, code, monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/tool.py'])
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: returned)
    assert ended.value.code == code


@pytest.mark.parametrize('fault', [lambda: 1 / 0, lambda: np.zeros(2) + np.zeros(3)], ids=['division', 'shapes'])
def test_run_does_not_hide_errors_of_the_program(fault):
    with pytest.raises((ZeroDivisionError, ValueError)) as ended:
        cli.run(fault)
    assert ended.traceback[-1].path == Path(__file__)


def test_unprintable_names_are_printed_as_escapes(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr('sys.stdout', io.TextIOWrapper(printed, 'ascii', write_through=True))
    with pytest.raises(SystemExit):
        cli.run(lambda: print('K\xe4se \ud800'))
    assert printed.getvalue() == b'K\\xe4se \\ud800\n'


def test_every_refusal_of_what_the_tools_call_has_a_code():
    sources = [
        path for part in ('apis', 'deploy', 'visualization') for path in (ROOT / 'apa_mmdet' / part).rglob('*.py')
    ]
    assert len(sources) > 30 and not [str(path) for path in sources if 'raise ValueError' in path.read_text()]
