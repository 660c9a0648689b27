"""What tools/check_dataset.py finds in data sets of image classification."""

import shutil

import cv2
import pytest
from helpers.paths import ROOT

from apa_mmdet.apis.validate_annotations import check_config
from apa_mmdet.utils.config import load_config
from apa_mmdet.visualization.contact_sheet import browse

LT, FOLDERS = (
    str(ROOT / name)
    for name in ('configs/imagenet_lt/se_resnet50_apa_imagenet-lt.py', 'configs/imagenet/se_resnet50_apa_in1k.py')
)
OPTIONS = dict(classes=['a', 'b', 'c'])
TRAIN, VAL = 'meta/ImageNet_LT_train.txt', 'meta/ImageNet_LT_val.txt'


def found(report):
    """Code, data set and records of each finding."""
    return {(finding.code, finding.dataset): finding.ids for finding in report.findings}


@pytest.fixture
def lists(tiny, tmp_path):
    return shutil.copytree(tiny('imagenet_lt'), tmp_path / 'data')


def check(root, config=LT, **kwargs):
    return check_config(config, dict(OPTIONS, data_root=str(root)), **kwargs)


@pytest.mark.parametrize('kind, config', [('imagenet_lt', LT), ('imagenet', FOLDERS)])
def test_a_sound_data_set(kind, config, tiny):
    report = check(tiny(kind), config)
    assert report.findings == [] and [row[1:5] for row in report.rows] == [(11, 3, 0, 0)] + [(6, 3, 0, 0)] * (
        2 if kind == 'imagenet_lt' else 1
    )
    assert 'training can start' in str(report) and '| few (< 20) |' in str(report)


def test_folders_without_lists(tiny, tmp_path):
    root = shutil.copytree(tiny('imagenet'), tmp_path / 'data')
    shutil.rmtree(root / 'meta')
    assert check(root, FOLDERS).findings == [] and check(root, FOLDERS, images=None).findings == []
    (root / 'train/c3').mkdir()
    codes = {finding.code for finding in check(root, FOLDERS, images=None).findings}
    assert codes == {'folder-count'}
    assert {finding.code for finding in check(root, FOLDERS).findings} == {'invalid-dataset'}
    shutil.rmtree(root / 'train')
    report = check(root, FOLDERS)
    assert ('missing-file', 'train') in found(report) and 'see docs/pretraining.md' not in str(report.findings[0].ids)


def test_missing_and_damaged_images(lists):
    (lists / 'train/c0/train_1.png').unlink()
    (lists / 'val/c1/val_0.png').write_bytes((lists / 'val/c1/val_0.png').read_bytes()[:200])
    findings = found(check(lists))
    assert findings['missing-image', 'train'] == (str(lists / 'train/c0/train_1.png'),)
    assert findings['unreadable-image', 'val'] == (str(lists / 'val/c1/val_0.png'),)
    findings = found(check(lists, images=False))
    assert {code for code, _ in findings} == {'missing-image'}


def test_labels_outside_the_classes_and_empty_classes(lists):
    text = (lists / TRAIN).read_text().replace('c2/train_0.png 2', 'c2/train_0.png 3').replace('c2/train_1.png 2', '')
    (lists / TRAIN).write_text('\n'.join(line for line in text.splitlines() if '.png ' in line and line[-1] != ' '))
    report = check(lists, images=None)
    findings = found(report)
    assert findings['label-outside-classes', 'train'] == (str(lists / 'train/c2/train_0.png'),)
    assert findings['class-without-instance', 'train'] == (2,)
    assert ('unusable-class-counts', 'model') in findings and report.errors
    for finding in report.findings:
        if finding.code == 'unusable-class-counts':
            assert finding.message.startswith(f'{finding.ids[0]}: {lists / TRAIN}')


def test_lines_that_are_none(lists):
    (lists / TRAIN).write_text('train/c0/train_0.png 0\ntrain/c0/train_1.png\n')
    report = check(lists, images=None)
    assert found(report)['invalid-list-line', 'train'] == (2,)
    assert "line 2 is 'train/c0/train_1.png'; it should be a path, a space and" in str(report)


def test_images_that_are_listed_twice_or_in_several_splits(lists):
    first, second = 'train/c0/train_0.png', 'train/c0/train_1.png'
    shutil.copy(lists / 'train/c1/train_0.png', lists / 'val/c1/val_0.png')
    for name, lines in ((TRAIN, f'{first} 0\n{second} 1\n'), (VAL, f'{first} 0\n')):
        with open(lists / name, 'a') as file:
            file.write(lines)
    findings = found(check(lists, images=False))
    assert findings['repeated-image', 'train'] == (str(lists / first),)
    assert findings['several-labels', 'train'] == (str(lists / second),)
    assert findings['trained-and-evaluated', 'config'] == (str(lists / first),)
    twins = [f.ids for f in check(lists).findings if f.code == 'trained-and-evaluated']
    assert (str(lists / 'val/c1/val_0.png'),) in twins and (str(lists / first),) in twins


def test_numbers_of_classes_that_differ(lists):
    options = dict(OPTIONS, data_root=str(lists), **{'model.head.num_classes': 4})
    report = check_config(LT, options, images=None)
    settings = {finding.ids for finding in report.findings if finding.code == 'num-classes-mismatch'}
    assert settings == {('model.head.num_classes',), ('model.data_preprocessor.num_classes',)}


def test_cifar_is_not_downloaded_and_read_from_memory(tiny, tmp_path, no_checksums):
    config = str(ROOT / 'configs/cifar100_lt/se_resnet32_apa_cifar100-lt.py')
    options = {'train_dataloader.dataset.download': True, 'data_root': str(tmp_path)}
    missing = check_config(config, options)
    assert found(missing)['missing-file', 'train'] == (str(tmp_path / 'cifar-100-python/train'),)
    assert 'put CIFAR-100, unpacked, under data/cifar100/' in str(missing) and not [*tmp_path.iterdir()]
    report = check_config(config, dict(data_root=str(tiny('cifar100_lt'))))
    # with 4 images of a class, the last have none
    assert {code for code, _ in found(report)} == {'class-without-instance'} and report.errors == 0


def test_other_data_sets_are_named(lists):
    options = dict(OPTIONS, data_root=str(lists), **{'train_dataloader.dataset.type': 'NoSet'})
    report = check_config(LT, options, images=None)
    assert {'unknown-dataset-type', 'unknown-type'} <= {finding.code for finding in report.findings}


@pytest.mark.parametrize('kind', ['imagenet', 'cifar100_lt'])
def test_a_sheet_shows_the_images_with_their_classes(kind, tiny, tmp_path, no_checksums):
    config = {'imagenet': FOLDERS, 'cifar100_lt': str(ROOT / 'configs/cifar100_lt/se_resnet32_apa_cifar100-lt.py')}
    cfg = load_config(config[kind], dict(data_root=str(tiny(kind)), **({} if 'cifar' in kind else OPTIONS)))
    cfg.val_dataloader.dataset.serialize_data = False
    sheet = browse(cfg, tmp_path / 'sheet.png', 'val', images=4, progress=False)
    assert sheet.drawn == sheet.objects.total() == 4 and (tmp_path / 'sheet.png').is_file()
    assert kind != 'imagenet' or [*sheet.objects] == ['a', 'b', 'c']
    # the first image has one color, which is blue as OpenCV reads it
    corner = cv2.imread(str(tmp_path / 'sheet.png'))[:40, :40].mean((0, 1))
    assert kind != 'imagenet' or corner.argmax() == 0
