"""Modules can be imported in any order, and ``ops`` on torch alone."""

import subprocess
import sys

from helpers.paths import ON_MMPRETRAIN, ROOT
from helpers.programs import fork_program

FIRST = """
import contextlib, gc, importlib, os, sys, types
from pathlib import Path
import cv2, matplotlib.pyplot, mmcv.ops, mmdet.apis, mmdet.evaluation, mmdet.visualization, mmengine.runner, onnx, onnxruntime, scipy.optimize, torch
with contextlib.suppress(ImportError):
    import triton
gc.disable()
root = Path(sys.argv[1])
on_mmpretrain = tuple(sys.argv[2:])

def import_first(name):
    package = types.ModuleType('apa_mmdet')  # without its __init__, which imports in an order of its own
    package.__path__, package.__version__ = [str(root)], '0'
    sys.modules['apa_mmdet'] = package
    importlib.import_module(name)

for path in sorted(root.rglob('*.py')):
    name = '.'.join(path.relative_to(root.parent).with_suffix('').parts).removesuffix('.__init__')
    if '.mim' in path.parts or name == 'apa_mmdet':
        continue
    child = os.fork()  # a fresh process that has the host's packages already
    if child == 0:
        try:
            import_first(name)
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and error.name in ('mmpretrain', 'torchvision') and name.startswith(on_mmpretrain):
                os._exit(0)
            print(f'{name}: {type(error).__name__}: {error}', file=sys.stderr)
        sys.stderr.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""

TORCH_ALONE = """
import sys
from importlib.abc import MetaPathFinder
class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmdet', 'mmcv', 'mmengine', 'lvis', 'pycocotools', 'cv2', 'matplotlib'):
            raise ModuleNotFoundError(name, name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'mmdet' else found(name, package)
sys.meta_path.insert(0, Hidden())
import torch
from apa_mmdet.checkpoint import convert_official_state_dict
from apa_mmdet.ops import aglu
print(aglu(torch.zeros(3), torch.ones(1), torch.ones(1)).tolist(), convert_official_state_dict(dict(a=1)))
"""

ADDED = """
import sys
before = set(sys.modules)
import apa_mmdet
added = {name.split('.')[0] for name in sys.modules.keys() - before}
print(sorted(added - sys.stdlib_module_names - {'apa_mmdet'}))
"""


def test_importing_adds_no_library_to_those_of_mmdet(tmp_path):
    """In a process that has imported what MMDetection registers, as every run of it."""
    (tmp_path / 'added.py').write_text(ADDED)
    run = fork_program(tmp_path / 'added.py', PYTHONPATH=str(ROOT))
    assert (run.returncode, run.stdout) == (0, '[]\n'), run.stderr


def test_every_module_can_be_imported_first(tmp_path):
    (tmp_path / 'first.py').write_text(FIRST)
    run = fork_program(tmp_path / 'first.py', ROOT / 'apa_mmdet', *ON_MMPRETRAIN)
    assert (run.returncode, run.stderr) == (0, '')


def test_official_names_need_no_torch():
    code = TORCH_ALONE.partition('import torch\n')[0].replace("in ('mmdet'", "in ('torch', 'mmdet'")
    code += """
from apa_mmdet.checkpoint import convert_official_state_dict
try:
    convert_official_state_dict({'relu.lambda_param': 1, 'act_stem.lambda_': 2})
except ValueError as error:
    print(error.code, error)
"""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.startswith('mixed-names relu.lambda_param and act_stem.lambda_ would'), run.stderr


def test_ops_and_official_names_need_torch_alone():
    run = subprocess.run([sys.executable, '-c', TORCH_ALONE], capture_output=True, text=True)
    assert run.stdout.strip() == "[0.0, 0.0, 0.0] {'a': 1}", run.stderr
