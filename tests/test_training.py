"""Every config trains for a few steps and is evaluated, through its own data set class and metric.

Changed for the test: the place of the data, the size and number of images, steps, proposals and detections; warm-up,
weight decay and pretrained weights are off. Of configs that differ in depth, schedule or activation only, one runs here;
``make test-slow`` trains all.
"""

import json
import re
from collections import Counter

import pytest
import torch
from helpers import tiny_images
from helpers.paths import ROOT
from helpers.shrink_config import shrunk, two_steps
from mmengine.config import Config
from mmengine.runner import Runner

CONFIGS = sorted(
    str(p.relative_to(ROOT / 'configs').with_suffix(''))
    for p in (ROOT / 'configs').glob('[!_]*/*.py')
    # test_any_detector.py, tests/classification
    if p.parent.name not in ('any_detector', *tiny_images.FOLDERS)
)
QUICK = {
    'coco/faster_rcnn_se_r50_apa_2x_coco',
    'coco/mask_rcnn_se_r50_relu_sigmoid_1x_coco',
    'lvis/mask_rcnn_se_r50_apa',
    'v3det/mask_rcnn_se_r50_apa_v3det',
}
FORMS = dict(
    lvis='lvis_v1', coco='coco', v3det='v3det', tiny_lvis='tiny_lvis', small_lvis='small_lvis', custom_dataset='coco'
)
ROOTS = dict(
    lvis='data/lvis_v1/',
    coco='data/coco/',
    v3det='data/V3Det/',
    tiny_lvis='data/tiny_lvis/',
    small_lvis='data/small_lvis/',
    custom_dataset='data/own',
)
V05 = 'lvis/mask_rcnn_r50_gol_lvis-v0.5'
METRICS = dict(
    lvis='lvis/{}_APr',
    coco='coco/{}_mAP',
    v3det='coco/{}_mAP',
    tiny_lvis='lvis/{}_APr',
    small_lvis='lvis/{}_APr',
    custom_dataset='coco/{}_mAP',
)

# a part of a config's name: a parameter that only its activation has (attention has an fc1 as well), and one that two steps
# change: β is 1, and inside a block, whose last norm starts at 0, gradients are too small for that
LEARNED = {
    'apa': (r'\.kappa$', r'\.kappa$'),
    'acon': (r'\.beta$', r'\.p1$'),
    'meta-acon': (r'\.act_\w+\.fc1\.weight$', r'\.act_\w+\.fc1\.weight$'),
    'apalu': (r'\.raw_a$', r'\.raw_a$'),
}


def as_custom_dataset(coco, folder):
    """Writes the three most frequent classes of a data set in COCO's format as configs/custom_dataset expects them."""
    content = json.loads((coco / 'annotations/instances_train2017.json').read_text())
    counts = Counter(a['category_id'] for a in content['annotations'])
    content['categories'] = [
        dict(id=key, name=name) for (key, _), name in zip(counts.most_common(), ('date', 'fig', 'hazelnut'))
    ]
    kept = {c['id'] for c in content['categories']}
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] in kept]
    folder.mkdir()
    (folder / 'trainval.json').write_text(json.dumps(content))
    (folder / 'images').symlink_to(coco / 'train2017')
    return folder


def small(cfg, family, data, work_dir, root):
    """Returns the config at the size of a test."""
    cfg = two_steps(shrunk(cfg, root, data))
    cfg.work_dir = str(work_dir)
    for rcnn in cfg.model.train_cfg.rcnn if isinstance(cfg.model.train_cfg.rcnn, list) else [cfg.model.train_cfg.rcnn]:
        rcnn.sampler.num = 32
    cfg.model.test_cfg.rpn.max_per_img = 5
    # keep some detections; of 13,204 classes only those above chance, or NMS would take long
    cfg.model.test_cfg.rcnn.update(score_thr=5e-5 if family == 'v3det' else -1.0, max_per_img=10)
    return cfg


@pytest.mark.parametrize('name', [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CONFIGS])
def test_a_config_trains_and_evaluates(name, tiny_data, tmp_path, monkeypatch):
    family = name.split('/')[0]
    form = 'lvis_v0.5' if name == V05 else FORMS[family]
    data = tiny_data(form, train=4, val=2, size=(96, 64))
    if family == 'custom_dataset':
        data = as_custom_dataset(data, tmp_path / 'own')
        monkeypatch.setenv('DATA_ROOT', str(data))
    root = 'data/lvis_v0.5/' if name == V05 else ROOTS[family]
    runner = Runner.from_cfg(small(Config.fromfile(ROOT / f'configs/{name}.py'), family, data, tmp_path, root))
    before = {key: p.detach().clone() for key, p in runner.model.named_parameters() if p.requires_grad}
    runner.train()
    for checkpoint in tmp_path.glob('*.pth'):  # pytest keeps the folders, and all together would take 20 GiB
        checkpoint.unlink()
    history = {key: buffer.data[0] for key, buffer in runner.message_hub.log_scalars.items()}
    assert len(history['train/loss']) >= 2 and all(
        torch.tensor(h).isfinite().all()
        for key, h in history.items()
        if not key.startswith('val/')  # NaN: AP of nothing
    )
    assert any('acc' in key for key in history) and ('train/loss_mask' in history) == ('mask' in name)
    assert max(history.get('train/loss_mask', [1.0])) > 0
    kinds = ('bbox', 'segm') if 'mask' in name and family != 'v3det' else ('bbox',)
    assert all(f'val/{METRICS[family].format(kind)}' in history for kind in kinds), sorted(history)
    after = dict(runner.model.named_parameters())
    changed = [key for key, p in before.items() if not torch.equal(p, after[key])]
    assert {'backbone', 'neck', 'rpn_head', 'roi_head'} == {key.split('.')[0] for key in changed}
    assert ('mask' in name) == any('mask_head' in key for key in changed)
    adaptive = [word for word in LEARNED if word in name.split('_')]
    assert adaptive == [word for word, (own, _) in LEARNED.items() if any(re.search(own, key) for key in before)]
    assert all(any(re.search(LEARNED[word][1], key) for key in changed) for word in adaptive)
