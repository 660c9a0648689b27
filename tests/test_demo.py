"""`make demo`, less the set-up: the plain commands of the README reach what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'


def python(*command, cwd):
    run = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_the_demo_reaches_a_mask_ap_of_a_quarter(tmp_path):
    python(ROOT / 'tools/make_tiny_lvis.py', cwd=tmp_path)
    python(ROOT / 'tools/train.py', ROOT / CONFIG, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs/mask_rcnn_se_r18_apa'
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    python(ROOT / 'tools/test.py', ROOT / CONFIG, checkpoint, cwd=tmp_path)
    table = python(ROOT / 'tools/report.py', work_dir, cwd=tmp_path)
    ap, apr, apc, apf = map(float, re.search(r'\| mask \|' + r' ([\d.]+) +\|' * 4, table).groups())
    assert ap >= 0.25 and apr > 0
    assert (work_dir / 'predictions.png').is_file() and (work_dir / 'training_curves.png').is_file()
