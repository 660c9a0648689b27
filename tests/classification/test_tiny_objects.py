"""The drawn classification sets and what starts from them: the commands of `make demo-pretrained`, in miniature."""

import subprocess

import pytest
import torch
from helpers.paths import ROOT
from helpers.programs import start_program, succeed
from helpers.tiny_runs import saved_at
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.apis.validate_annotations import check_config
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES, MARKED_CATEGORIES
from apa_mmdet.utils.config import load_config

BACKBONES = ROOT / 'configs/tiny_objects'
DETECTORS = ROOT / 'configs/tiny_lvis'
APA, FROM_APA = BACKBONES / 'se_resnet18_apa_tiny-objects.py', DETECTORS / 'mask_rcnn_se_r18_apa_pretrained.py'
RELU, FROM_RELU = (
    BACKBONES / 'se_resnet18_relu_sigmoid_tiny-objects.py',
    DETECTORS / 'mask_rcnn_se_r18_relu_gol_pretrained.py',
)
SMALL = {  # of the small LVIS: backbone, detector
    backbone: (
        ROOT / f'configs/small_objects/se_resnet18_{backbone}_small-objects.py',
        ROOT / f'configs/small_lvis/mask_rcnn_se_r18_{detector}_small-lvis.py',
    )
    for backbone, detector in dict(apa='apa', relu_sigmoid='relu_gol', acon='acon_seesaw', apalu='apalu_seesaw').items()
}
PAIRS = {'APA': (APA, FROM_APA), 'ReLU': (RELU, FROM_RELU), **{f'small-{name}': pair for name, pair in SMALL.items()}}


@pytest.fixture(scope='module')
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp('objects')
    make_tiny_lvis(folder, train=96, val=48, progress=False, form='imagenet')
    return folder


def test_the_config_reads_what_the_tool_draws(objects):
    cfg = load_config(APA)
    for split, number in (('train', 96), ('val', 48)):
        dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, data_root=str(objects)))
        assert dataset.metainfo['classes'] == CATEGORIES and len(dataset) == number
        assert [dataset.get_data_info(i)['gt_label'] for i in range(number)] == [i % 48 for i in range(number)]
        assert dataset[5]['inputs'].shape == (3, 64, 64)
    assert check_config(str(APA), dict(data_root=str(objects))).findings == []


def test_the_small_config_reads_what_the_tool_draws(tmp_path):
    make_tiny_lvis(tmp_path, train=4, val=2, progress=False, form='small_objects')
    cfg = load_config(SMALL['apa'][0])
    for split, number in (('train', 4), ('val', 2)):
        dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, data_root=str(tmp_path)))
        assert dataset.metainfo['classes'] == MARKED_CATEGORIES and len(dataset) == number
        assert [dataset.get_data_info(i)['gt_label'] for i in range(number)] == list(range(number))
        assert dataset[1]['inputs'].shape == (3, 64, 64)


@pytest.mark.parametrize('backbone, detector', PAIRS.values(), ids=PAIRS)
def test_a_detector_has_the_backbone_and_the_images_of_its_pretraining(backbone, detector):
    ours, theirs = load_config(backbone), Config.fromfile(detector)
    epochs = ours.train_cfg.max_epochs
    net = theirs.model.backbone
    assert net.init_cfg == dict(type='Pretrained', checkpoint=f'work_dirs/{backbone.stem}/epoch_{epochs}.pth')
    assert (net.frozen_stages, net.norm_eval, net.depth) == (1, True, ours.model.backbone.depth)
    assert {k: net.get(k) for k in ('act_cfg', 'se_cfg')} == {
        k: ours.model.backbone.get(k) for k in ('act_cfg', 'se_cfg')
    }
    for key in ('mean', 'std'):
        assert ours.model.data_preprocessor[key] == theirs.model.data_preprocessor[key]
    assert ours.metainfo == theirs.metainfo and theirs.model.data_preprocessor.bgr_to_rgb
    codes = {finding.code for finding in check_launch(Launch('train.py', theirs))}
    assert codes <= {'missing-pretrained'}
    assert check_launch(Launch('train.py', ours)) == []


@pytest.mark.parametrize('option, pair', [('', (APA, FROM_APA)), ('BASELINE=1', (RELU, FROM_RELU))])
def test_make_runs_the_commands_of_the_page(option, pair):
    backbone, detector = (path.relative_to(ROOT) for path in pair)
    dry = subprocess.run(['make', '-n', 'demo-pretrained', *option.split()], cwd=ROOT, capture_output=True, text=True)
    wanted = [
        'python tools/make_tiny_lvis.py --form imagenet',
        f'python tools/train.py {backbone} --resume',
        'python tools/make_tiny_lvis.py',
        f'python tools/train.py {detector} --resume',
        f'python tools/test.py {detector} $(cat work_dirs/{detector.stem}/last_checkpoint)',
    ]
    commands = [line[line.index('python tools/') :] for line in dry.stdout.splitlines() if 'python tools/' in line]
    assert commands == wanted, dry.stderr


@pytest.mark.slow
def test_the_chain_from_images_to_a_detector(tmp_path):
    """Each command of `make demo-pretrained`, on few images."""

    def run(tool, *arguments):
        return succeed(start_program(ROOT / 'tools' / tool, *arguments, cwd=tmp_path))

    run('make_tiny_lvis.py', '--form', 'imagenet', '--train', 96, '--val', 48)
    run('make_tiny_lvis.py', '--train', 48, '--val', 4, '--size', 64)
    options = ('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False')
    assert 'accuracy/top1' in run('train.py', APA, '--resume', '--cfg-options', *options)
    run('train.py', FROM_APA, '--resume', '--cfg-options', 'max_epochs=1', 'train_dataloader.dataset.dataset.indices=4')
    weights = saved_at(tmp_path / f'work_dirs/{APA.stem}/epoch_6.pth')['state_dict']
    trained = saved_at(tmp_path / f'work_dirs/{FROM_APA.stem}/epoch_1.pth')['state_dict']
    names = [name for name in trained if name.startswith('backbone.')]
    same = {name for name in names if torch.equal(trained[name], weights[name])}
    frozen = {name for name in names if name.split('.')[1] in ('conv1', 'bn1', 'act_stem', 'layer1')}
    statistics = {name for name in names if 'running_' in name}
    assert frozen | statistics <= same and 'backbone.layer4.1.conv2.weight' not in same
    latest = (tmp_path / f'work_dirs/{FROM_APA.stem}/last_checkpoint').read_text()
    assert 'segm_AP' in run('test.py', FROM_APA, latest)
