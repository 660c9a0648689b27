"""benchmarks/classifier.py on images of a few pixels."""

import runpy
import sys

import pytest
from helpers.paths import ROOT


@pytest.mark.slow
def test_all_contenders_are_timed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    options = ['--device', 'cpu', '--shape', '2x3x32x32', '--rounds', '2', '--amp', 'bfloat16']
    monkeypatch.setattr(sys, 'argv', ['classifier.py', *options, '--out', str(tmp_path)])
    runpy.run_path(str(ROOT / 'benchmarks/classifier.py'), run_name='__main__')
    import measure

    rows = measure.read_results(tmp_path / 'classifier_cpu_bfloat16.csv')
    assert len(rows) == 3 and all(not row['note'] and float(row['images_per_second']) > 0 for row in rows)
    assert rows[1]['to_relu'] == '1'
