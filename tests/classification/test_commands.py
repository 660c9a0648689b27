"""The commands of the pages that need MMPretrain run on small data in a copy of the repository.

Those of the drawn set are in test_tiny_objects.py; tests/test_docs.py lists both.
"""

import shutil

import pytest
import test_docs
import torch
from helpers.paths import ROOT
from helpers.processes import in_a_copy
from helpers.tiny_images import LISTS, ROOTS, make_cifar, make_tiny

from apa_mmdet.checkpoint.official_names import classifier_names
from apa_mmdet.utils.config import build_detector, load_config

QUICK = (
    'train_dataloader.num_workers=0 val_dataloader.num_workers=0 test_dataloader.num_workers=0 '
    'train_dataloader.batch_size=4 max_epochs=1'
)
NARROW_BACKBONE = dict(base_channels=4, stem_channels=4)
NARROW = 'model.backbone.base_channels=4 model.backbone.stem_channels=4 model.head.in_channels=128'
ADDED = {  # to make them short
    **{f'python tools/check_dataset.py {config}': '' for config in (*test_docs.ON_4_GPUS, test_docs.CIFAR)},
    **{f'tools/dist_train.sh {config} 4': f'--cfg-options {QUICK} {NARROW}' for config in test_docs.ON_4_GPUS},
    f'python tools/train.py {test_docs.CIFAR}': f'--cfg-options {QUICK} train_dataloader.batch_size=100',
    f'python tools/test.py {test_docs.R50} {test_docs.PRETRAINED}': '',
    'python tools/train.py configs/lvis/mask_rcnn_se_r50_apa.py --cfg-options '
    f'model.backbone.init_cfg.checkpoint={test_docs.PRETRAINED}': test_docs.FEW.removeprefix('--cfg-options'),
    f'python tools/convert_official_weights.py IN OUT --config {test_docs.R50}': '',
    test_docs.OF_CLASSIFIERS[-2]: '',
    test_docs.OF_CLASSIFIERS[-1]: '--force',
}


def test_every_command_is_here():
    assert [*ADDED] == test_docs.OF_CLASSIFIERS


@pytest.fixture(scope='module')
def clone(tmp_path_factory, tiny_data):
    """A copy of the repository with small data, and official and other weights of an SE-ResNet-50."""
    folder = tmp_path_factory.mktemp('commands') / 'apa_mmdet'
    skipped = shutil.ignore_patterns('.git', '.venv*', 'data', 'work_dirs', 'pretrained', 'build', '__pycache__')
    shutil.copytree(ROOT, folder, symlinks=True, ignore=skipped)
    data = folder / 'data'
    for kind in ('imagenet', 'inat18', 'places_lt'):
        make_tiny(kind, data / ROOTS[kind])
    lists = make_tiny('imagenet_lt', folder / 'imagenet_lt')
    for name in LISTS['imagenet_lt']:
        shutil.copy(lists / name, data / 'imagenet' / name)
    make_cifar(data / ROOTS['cifar100_lt'])
    shutil.copytree(tiny_data('lvis_v1'), data / 'lvis_v1')
    (folder / 'ImageNet_LT_train.txt').write_text('\n'.join(f'{n}.jpg {n}' for n in range(1000)))
    weights = build_detector(load_config(ROOT / test_docs.R50), test_docs.R50).state_dict()
    places = load_config(ROOT / test_docs.ON_4_GPUS[-1])
    places.model.backbone.update(NARROW_BACKBONE, init_cfg=None)
    backbone = build_detector(places, str(test_docs.ON_4_GPUS[-1]), 'backbone').state_dict()
    official = {theirs: weights[ours] for ours, theirs in classifier_names(weights, to_official=True).items()}
    for path, content in (
        (test_docs.PRETRAINED, dict(state_dict=weights)),
        ('pretrained/se_resnet152_apa.pth', dict(state_dict=backbone)),
        ('official.pth', dict(model=official)),
        ('official_cosine.pth', dict(model={name: official[name] for name in official if name != 'fc.bias'})),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('command', ADDED)
def test_a_command_of_the_pages_runs(command, clone):
    weights = 'official_cosine.pth' if 'imagenet-lt' in command else 'official.pth'
    short = command.replace('.py 4', '.py 2').replace(' IN OUT ', f' {weights} converted.pth ')
    if 'cifar' in command:  # not the real files
        short = short.replace('python tools/', 'python tests/helpers/classification_tool.py tools/')
    in_a_copy(clone, f'{short} {ADDED[command]}')
