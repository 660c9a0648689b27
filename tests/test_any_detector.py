"""Stock detectors that became adaptive by their config: trained for two steps and evaluated on a small set."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from small import shrunk, two_steps

from apa_mmdet.datasets.tiny_lvis import make_tiny_lvis

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p.stem for p in (ROOT / 'configs/any_detector').glob('*.py'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coco')
    make_tiny_lvis(folder, train=4, val=2, size=(96, 64), seed=0, progress=False, form='coco')
    return folder


def small(cfg, data, work_dir):
    cfg = two_steps(shrunk(cfg, 'data/coco/', data))
    cfg.work_dir = str(work_dir)
    test = cfg.model.test_cfg
    (test.rcnn if 'rcnn' in test else test).update(score_thr=0., max_per_img=10)
    if 'rpn' in test:
        test.rpn.max_per_img = 5
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20
    return cfg


@pytest.mark.parametrize('name', [pytest.param(n, marks=() if n == 'rtmdet_tiny_aglu' else pytest.mark.slow) for n in CONFIGS])
def test_trains_and_evaluates(name, data, tmp_path):
    runner = Runner.from_cfg(small(Config.fromfile(ROOT / f'configs/any_detector/{name}.py'), data, tmp_path))
    before = {key: p.detach().clone() for key, p in runner.model.named_parameters() if key.endswith('.kappa')}
    runner.train()
    history = {key: buffer.data[0] for key, buffer in runner.message_hub.log_scalars.items()}
    assert len(history['train/loss']) >= 2 and all(torch.tensor(h).isfinite().all() for h in history.values())
    assert 'val/coco/bbox_mAP' in history and ('val/coco/segm_mAP' in history) == ('mask' in name)
    after = dict(runner.model.named_parameters())
    assert len(before) > 10 and any(not torch.equal(p, after[key]) for key, p in before.items())
