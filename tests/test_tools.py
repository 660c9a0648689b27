"""The tools as a user starts them, on real data: training, testing, resuming, reporting."""

import json
import re
import shutil

import pytest
import torch
from helpers.paths import ROOT
from helpers.programs import fork_program, start_program, succeed
from mmengine.config import Config
from mmengine.runner import Runner

from apa_mmdet.apis.mmdet_tools import stock_tool
from apa_mmdet.apis.report import report
from apa_mmdet.checkpoint.io import load_as_data
from apa_mmdet.visualization.training_curves import read_log

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
BASELINE = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_relu_softmax.py'
FLAGSHIP = ROOT / 'configs/lvis/mask_rcnn_se_r50_apa.py'
OWN = ROOT / 'configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, tiny_data):
    """A folder with a small data/tiny_lvis in it."""
    folder = tmp_path_factory.mktemp('tiny')
    (folder / 'data').mkdir()
    (folder / 'data/tiny_lvis').symlink_to(tiny_data())
    return folder


ONE_EPOCH = [
    '--cfg-options',
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'train_dataloader.dataset.oversample_thr=1e-5',
    'model.test_cfg.rcnn.score_thr=1e-5',
    'default_hooks.logger.interval=1',
]
AVERAGE_PRECISIONS = [f'lvis/{iou}_{ap}' for iou in ('bbox', 'segm') for ap in ('AP', 'APr', 'APc', 'APf')]


@pytest.fixture(scope='module')
def trained(tiny):
    """The work dir of one epoch of the tiny config, made by our tools/train.py."""
    log = succeed(start_program(ROOT / 'tools/train.py', TINY, '--work-dir', 'work', *ONE_EPOCH, cwd=tiny))
    assert 'lvis/segm_APr' in log
    return tiny / 'work'


def test_training_logs_the_losses_and_writes_a_checkpoint(trained):
    lines = [json.loads(line) for line in next(trained.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert len(steps) == 2
    assert {'loss_cls', 'loss_bbox', 'loss_mask', 'loss_rpn_cls', 'loss_rpn_bbox', 'acc_classes'} <= set(steps[0])
    assert all(torch.tensor(step['loss']).isfinite() for step in steps)
    checkpoint = load_as_data(trained / 'epoch_1.pth')
    assert checkpoint['meta']['epoch'] == 1 and 'backbone.layer1.0.act_conv1.lambda_' in checkpoint['state_dict']


def metrics_of_test_by(program, tiny):
    """Tests the checkpoint of ``trained`` with a program; returns the metrics."""
    command = [program, TINY, 'work/epoch_1.pth', '--work-dir', 'work', *ONE_EPOCH[:1], *ONE_EPOCH[4:5]]
    succeed(fork_program(*command, cwd=tiny))
    metrics = json.loads(sorted((tiny / 'work').glob('*/*.json'))[-1].read_text())
    return {key: metrics[key] for key in AVERAGE_PRECISIONS}


@pytest.fixture(scope='module')
def tested(tiny, trained):
    return metrics_of_test_by(ROOT / 'tools/test.py', tiny)


@pytest.fixture
def validated(trained):
    """The metrics that the training logged."""
    metrics = json.loads(next(trained.glob('*/vis_data/scalars.json')).read_text().splitlines()[-1])
    return {key: metrics[key] for key in AVERAGE_PRECISIONS}


def test_testing_gives_the_metrics_of_the_training_run(tested, validated):
    assert tested == validated


@pytest.mark.slow
def test_mmdets_own_test_py_gives_the_same_metrics(tiny, validated):
    assert metrics_of_test_by(stock_tool('test.py'), tiny) == validated


def test_the_report_shows_metrics_predictions_and_training_curves(tiny, trained, tested, monkeypatch):
    import cv2

    monkeypatch.chdir(tiny)
    text = report('work', images=3)
    assert re.search(r'\| *mask *\|', text) and 'work/predictions.png' in text and 'work/training_curves.png' in text
    assert (trained / 'training_curves.png').is_file()
    image = cv2.imread(str(trained / 'predictions.png'))
    assert image.shape[0] > 2 * 480 and image.shape[1] > 4 * 480 and image.std() > 20


def test_training_resumes_where_it_stopped(tiny, trained):
    options = [o.replace('max_epochs=1', 'max_epochs=2') for o in ONE_EPOCH]
    shutil.copytree(trained, tiny / 'resumed')
    command = [ROOT / 'tools/train.py', TINY, '--work-dir', 'resumed', '--resume', *options]
    log = succeed(fork_program(*command, cwd=tiny))
    assert 'resumed epoch: 1, iter: 2' in log
    curves = read_log(tiny / 'resumed')
    assert [row['step'] for row in curves.steps] == [3, 4]
    assert [row['step'] for row in curves.validations] == [2]
    first = load_as_data(trained / 'epoch_1.pth')
    second = load_as_data(tiny / 'resumed/epoch_2.pth')
    assert second['meta']['iter'] == 4
    assert {s['step'].item() for s in second['optimizer']['state'].values()} == {4.0}
    name = 'backbone.layer2.0.act_out.lambda_'
    assert not torch.equal(first['state_dict'][name], second['state_dict'][name]), 'λ is not learned'


def test_mmdets_own_train_py_runs_the_baseline_config(tiny):
    command = [stock_tool('train.py'), BASELINE, '--work-dir', 'elsewhere', *ONE_EPOCH]
    log = succeed(fork_program(*command, cwd=tiny))
    assert 'lvis/bbox_APf' in log and 'acc: ' in log


def test_features_and_proposal_losses_run_in_bfloat16(tiny, monkeypatch):
    """The part of mixed precision that a CPU can run: MMEngine's AmpOptimWrapper and mmcv's RoIAlign need a GPU."""
    monkeypatch.chdir(tiny)
    cfg = Config.fromfile(TINY)
    cfg.work_dir = str(tiny / 'bfloat16')
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    runner = Runner.from_cfg(cfg)
    model = runner.model.train()
    data = model.data_preprocessor(next(iter(runner.build_dataloader(cfg.train_dataloader))), True)
    losses = {}
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            features = model.extract_feat(data['inputs'])
            loss, _ = model.parse_losses(model.rpn_head.loss(features, data['data_samples']))
        model.zero_grad()
        loss.backward()
        losses[enabled] = loss.item()
        assert features[0].dtype == (torch.bfloat16 if enabled else torch.float32)
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.backbone.parameters())
    assert losses[True] != losses[False] and losses[True] == pytest.approx(losses[False], rel=0.05)


def test_a_loaded_checkpoint_gives_the_same_outputs_each_time(tiny, trained):
    from mmdet.apis import inference_detector, init_detector

    image = str(next((tiny / 'data/tiny_lvis/val2017').iterdir()))
    results = []
    for _ in range(2):
        model = init_detector(
            str(TINY),
            str(trained / 'epoch_1.pth'),
            device='cpu',
            cfg_options={
                'model.test_cfg.rcnn.score_thr': 1e-5,
                'model.roi_head.bbox_head.loss_cls.class_frequency': 'no/such/file.json',
            },
        )
        results.append(inference_detector(model, image).pred_instances)
    assert len(results[0]) > 0
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(torch.as_tensor(results[0][key]), torch.as_tensor(results[1][key]))


def test_a_missing_image_ends_training_with_one_line(tmp_path, tiny_data):
    shutil.copytree(tiny_data(train=4, val=2, size=(96, 64)), tmp_path / 'data/tiny_lvis')
    (tmp_path / 'data/tiny_lvis/train2017/000000000001.jpg').unlink()
    run = fork_program(ROOT / 'tools/train.py', TINY, *ONE_EPOCH, cwd=tmp_path)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and '000000000001.jpg' in last and 'make_tiny_lvis' in last


def in_lvis_v1_form(tiny):
    """Writes the tiny images as LVIS v1, with its folder and its 1,203 categories, of which the first 48 occur."""
    names = json.loads((ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json').read_text())['categories']
    for split in ('train', 'val'):
        content = json.loads((tiny / f'data/tiny_lvis/annotations/lvis_v1_{split}.json').read_text())
        content['categories'] = [dict(c, synset=c['name'], synonyms=[c['name']], instance_count=1) for c in names]
        folder = tiny / 'data/lvis_v1'
        (folder / 'annotations').mkdir(parents=True, exist_ok=True)
        (folder / f'annotations/lvis_v1_{split}.json').write_text(json.dumps(content))
        if not (folder / f'{split}2017').exists():
            (folder / f'{split}2017').symlink_to(tiny / f'data/tiny_lvis/{split}2017')


def flagship_cfg(tiny, work_dir):
    """The flagship config with another data root, image size and length of the run."""
    in_lvis_v1_form(tiny)
    cfg = Config.fromfile(FLAGSHIP)
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.init_cfg = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        dataset = loader.dataset.get('dataset', loader.dataset)
        dataset.data_root = str(tiny / 'data/lvis_v1')
        dataset.indices = 4 if loader is cfg.train_dataloader else 2
        for step in dataset.pipeline:
            if step.type == 'RandomChoiceResize':
                step.scales = [(256, 256), (320, 256)]
            if step.type == 'Resize':
                step.scale = (256, 256)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(tiny / 'data/lvis_v1/annotations/lvis_v1_val.json')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    return cfg


@pytest.mark.slow
def test_the_flagship_trains_two_steps_evaluates_and_is_loaded_again(tiny, tmp_path):
    cfg = flagship_cfg(tiny, tmp_path / 'work')
    cfg.param_scheduler.pop(0)  # two steps of the warm-up would move λ by less than a float32
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 2
    scalars = runner.message_hub.log_scalars
    for name in ('loss_cls', 'loss_bbox', 'loss_mask', 'acc_classes'):
        assert len(scalars[f'train/{name}'].data[0]) == 2
        assert torch.tensor(scalars[f'train/{name}'].data[0]).isfinite().all()
    metrics = {k for k in scalars if k.startswith('val/lvis/')}
    assert {'val/lvis/bbox_AP', 'val/lvis/segm_AP', 'val/lvis/segm_APr'} <= metrics
    moved = {n for n, p in runner.model.named_parameters() if not torch.equal(p, before[n])}
    for name in (
        'backbone.layer2.0.act_out.lambda_',
        'backbone.layer4.2.act_out.kappa',
        'roi_head.bbox_head.fc_cls.bias',
        'roi_head.mask_head.upsample.content_encoder.weight',
        'roi_head.mask_head.conv_logits.temperature',
    ):
        assert name in moved
    assert not [
        n for n in moved if n.startswith(('backbone.conv1', 'backbone.bn1', 'backbone.act_stem', 'backbone.layer1'))
    ]

    again = Runner.from_cfg(
        dict(
            flagship_cfg(tiny, tmp_path / 'again'),
            load_from=str(tmp_path / 'work/epoch_1.pth'),
            experiment_name='again',
        )
    )
    again.load_or_resume()
    data = next(iter(again.build_dataloader(again.cfg.test_dataloader)))
    with torch.no_grad():
        a, b = (r.model.eval() and r.model.test_step(data)[0].pred_instances for r in (runner, again))
    assert len(a) == 300 and torch.equal(a.scores, b.scores) and torch.equal(a.masks, b.masks)


def test_the_custom_dataset_config_trains_on_coco_format(tiny):
    """With the images of the tiny set and the three class names of the example."""
    own = tiny / 'own'
    own.mkdir()
    content = json.loads((tiny / 'data/tiny_lvis/annotations/lvis_v1_train.json').read_text())
    images = content['images'][:4]
    annotations = [a for a in content['annotations'] if a['image_id'] in {image['id'] for image in images}]
    names = ('date', 'fig', 'hazelnut')
    coco = dict(
        images=[
            dict(id=i['id'], width=i['width'], height=i['height'], file_name=i['coco_url'].split('/')[-1])
            for i in images
        ],
        annotations=[dict(a, category_id=a['category_id'] % 3 + 1, iscrowd=0) for a in annotations],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(names)],
    )
    (own / 'trainval.json').write_text(json.dumps(coco))
    (own / 'images').symlink_to(tiny / 'data/tiny_lvis/train2017')
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'model.test_cfg.rcnn.score_thr=1e-5']
    command = [ROOT / 'tools/train.py', OWN, '--work-dir', 'own_work', '--cfg-options', *options]
    assert 'coco/segm_mAP' in succeed(fork_program(*command, cwd=tiny, DATA_ROOT=str(own)))
