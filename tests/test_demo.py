"""The commands of `make demo` reach the documented AP, in each precision."""

import os
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

CONFIG = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa_seesaw.py'

# fp16_cpu for float16 only, which would take hours without
MIXED = """
_base_ = {base!r}
custom_imports = dict(imports=['apa_mmdet', 'helpers.fp16_cpu'], allow_failed_imports=False)
optim_wrapper = dict(type='MixedPrecisionOptimWrapper', dtype={dtype!r})
"""


def python(*command, cwd):
    env = dict(os.environ, PYTHONPATH=str(ROOT / 'tests'))
    run = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_the_demo_reaches_its_mask_ap(dtype, tmp_path):
    """A run of float32 gave 0.504, other initial weights 0.06 less; every precision has to come near."""
    config = CONFIG
    if dtype != 'float32':
        config = tmp_path / CONFIG.name
        config.write_text(MIXED.format(base=str(CONFIG), dtype=dtype))
    python(ROOT / 'tools/make_tiny_lvis.py', cwd=tmp_path)
    python(ROOT / 'tools/train.py', config, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs' / CONFIG.stem
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    python(ROOT / 'tools/test.py', config, checkpoint, cwd=tmp_path)
    table = python(ROOT / 'tools/report.py', work_dir, cwd=tmp_path)
    ap, apr, apc, apf = map(float, re.search(r'\| mask \|' + r' ([\d.]+) +\|' * 4, table).groups())
    assert ap >= 0.4 and apr >= 0.25
    assert (work_dir / 'predictions.png').is_file() and (work_dir / 'training_curves.png').is_file()
