"""A program that imports apa_mmdet and names nothing of it gets the same objects and the same loads as without."""

import inspect
import json

from helpers.payloads import reads_its_own_checkpoints
from helpers.programs import fork_program, start_program, succeed
from mmengine.runner.checkpoint import load_from_local

SNAPSHOT = """
import sys, torch, mmengine, mmcv, mmdet
import mmengine.registry, mmdet.registry, mmengine.hooks, mmengine.runner.checkpoint, mmengine.fileio, mmcv.ops
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
from mmengine.infer import BaseInferencer
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner
from mmdet.apis import DetInferencer
from mmdet.utils import register_all_modules
register_all_modules(init_default_scope=False)
for registry in vars(mmengine.registry).values():  # each imports its modules when it is first asked
    if isinstance(registry, Registry):
        registry.import_from_location()

def entries():
    found = {}
    for module in (mmengine.registry, mmdet.registry):
        for name, registry in vars(module).items():
            if isinstance(registry, Registry):
                found.update({(module.__name__, name, key): value for key, value in registry.module_dict.items()})
    return found

def reachable(names):
    # what a name means in MMDetection's registries, which look in MMEngine's too
    return {(name, key): getattr(mmdet.registry, name).get(key) for _, name, key in names if hasattr(mmdet.registry, name)}

def objects():
    found = {'torch.load': torch.load, 'torch.save': torch.save}
    for owner in (CheckpointLoader, BaseInferencer, DetInferencer, Runner, FlexibleRunner, torch.serialization,
                  mmengine.runner.checkpoint, mmengine.fileio, mmengine.hooks, mmcv.ops):
        for key, value in vars(owner).items():
            if not key.startswith('__') and key != '_schemes':
                found[f'{owner.__name__}.{key}'] = value
    found.update({f'backend {key}': value for key, value in backends.items()})
    found.update({f'prefix {key}': value for key, value in prefix_to_backends.items()})
    found.update({f'scheme {key}': value for key, value in CheckpointLoader._schemes.items()})
    found['safe globals'] = frozenset(getattr(torch.serialization, 'get_safe_globals', list)())
    return found

before = objects(), entries()
meaning = reachable(before[1])
"""

COMPARE = """
import apa_mmdet, json
after = objects(), entries()
changed = [str(key) for old, new in zip(before, after) for key in old if old[key] is not new.get(key) and old[key] != new.get(key)]
changed += [str(key) for key, value in reachable(before[1]).items() if value is not meaning[key]]
added = {str(key): value for old, new in zip(before, after) for key, value in new.items() if key not in old}
ours = {key for key, value in added.items() if 'apa_mmdet' in key or getattr(value, '__module__', '').startswith('apa_mmdet')}
print(json.dumps(dict(changed=changed, foreign=sorted(added.keys() - ours))))
"""


def run(script, folder, *arguments, by=fork_program):
    (folder / 'script.py').write_text(script)
    output = succeed(by(folder / 'script.py', *arguments, cwd=folder))
    return json.loads(next(line for line in output.splitlines() if line.startswith('{')))


def test_objects_schemes_backends_and_registries_are_the_same(tmp_path):
    # the scheme of local files, listed in compat.py, where MMEngine leaves it to torch how a file is read
    changed = ['scheme '] if 'torch.load(filename' in inspect.getsource(load_from_local) else []
    assert run(SNAPSHOT + COMPARE, tmp_path) == dict(changed=changed, foreign=[])


LOADS = """
import json, pickle, sys, torch
from pathlib import Path
if sys.argv[2] == 'with':
    import apa_mmdet
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, load_checkpoint
folder = Path(sys.argv[1])

class Own:
    pass

results = {}
torch.save(dict(own=Own()), folder / 'own.pth')
results['unsafe'] = type(torch.load(folder / 'own.pth', weights_only=False)['own']).__name__
for name, load in dict(default=torch.load, loader=lambda path: CheckpointLoader.load_checkpoint(str(path))).items():
    try:
        results[name] = [type(load(folder / 'own.pth')['own']).__name__]
    except Exception as error:
        results[name] = [type(error).__name__, str(error).splitlines()[0]]

cfg = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
cfg.model.backbone.init_cfg = None
init_default_scope('mmdet')
model = MODELS.build(cfg.model)
meta = dict(cfg=cfg.pretty_text, config='a = 1', dataset_meta=dict(classes=cfg.get('classes', ('a', 'b'))))
torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'meta.pth')
results['meta'] = sorted(load_checkpoint(model, str(folder / 'meta.pth'))['meta'])
results['inferencer'] = DetInferencer(weights=str(folder / 'meta.pth'), device='cpu').model.bbox_head.num_classes
print(json.dumps(results))
"""


def test_loads_are_the_same(tmp_path):
    same = run(LOADS, tmp_path, tmp_path, 'without')
    assert run(LOADS, tmp_path, tmp_path, 'with', by=start_program) == same  # apa_mmdet is imported first
    assert same['unsafe'] == 'Own' and same['inferencer'] == 80 and same['meta'] == ['cfg', 'config', 'dataset_meta']
    assert same['loader'][0] == ('Own' if reads_its_own_checkpoints(load_from_local) else 'UnpicklingError')
