"""Classes of a config, categories of its files, and the numbers of classes of its model."""

import json
import os

import pytest
from helpers.annotations import TRAIN, VAL, coco_dataset, coco_validation_set, codes, edit, findings_of, first
from helpers.paths import ROOT
from mmdet.datasets import LVISV1Dataset

from apa_mmdet.datasets import load_class_frequency
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES
from apa_mmdet.datasets.validation.classes import compare_classes
from apa_mmdet.datasets.validation.validate_config import validate_config
from apa_mmdet.utils.findings import Findings

SHIPPED = ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
V3DET_NAMES = 'V3Det/annotations/category_name_13204_v3det_2023_v1.txt'
LOSS = 'model.roi_head.bbox_head.loss_cls'


@pytest.mark.parametrize(
    'classes, names, by_name, expected',
    [
        ('abc', 'abc', True, []),
        ('abc', 'abdc', True, [('warning', 'extra-category', ('d',))]),
        ('abc', 'abdc', False, [('error', 'unnamed-category', ('d',))]),
        ('abc', 'ab', True, [('error', 'missing-category', ('c',))]),
        ('abc', 'cab', True, [('error', 'class-order', ('a', 'c'))]),
        ('aba', 'aba', True, [('warning', 'shared-category-name', ('a',))]),
        ('ab', 'abb', True, [('error', 'duplicate-category', ('b',))]),
        ('aab', 'ab', True, [('error', 'duplicate-class', ('a',))]),
    ],
)
def test_classes_are_compared_with_categories(classes, names, by_name, expected):
    findings = Findings('train')
    compare_classes(classes, names, by_name, findings)
    assert [(f.severity, f.code, f.ids) for f in findings] == expected


def test_a_class_that_lvis_spells_in_its_own_way():
    classes = LVISV1Dataset.METAINFO['classes']
    names = [c['name'] for c in json.loads(SHIPPED.read_text())['categories']]  # of the annotation file
    assert [n for n in names if n not in classes] == ['speaker_(stero_equipment)']
    findings = Findings('train')
    compare_classes(classes, names, False, findings)
    assert not findings


@pytest.mark.parametrize(
    'change, code',
    [
        (lambda c: c['categories'].pop(), ('missing-category', (CATEGORIES[-1],))),
        (lambda c: c['categories'].append(dict(id=49, name='pear')), ('unnamed-category', ('pear',))),
        (lambda c: c['categories'].reverse(), ('class-order', (CATEGORIES[0], CATEGORIES[-1]))),
        (first('categories', name=CATEGORIES[1]), ('duplicate-category', (CATEGORIES[1],))),
    ],
)
def test_lvis_files_with_other_categories(broken, change, code):
    folder, cfg = broken
    cfg.train_dataloader.dataset.dataset.type = 'LVISV1Dataset'  # which numbers all of the file
    edit(folder / TRAIN, change)
    assert code in codes(findings_of(cfg, 'train'), 'error')


@pytest.mark.parametrize(
    'change, expected',
    [
        (lambda c: c['categories'].pop(), ('error', 'missing-category', (CATEGORIES[-1],))),
        (lambda c: c['categories'].append(dict(id=49, name='pear')), ('warning', 'extra-category', ('pear',))),
        (lambda c: c['categories'].reverse(), None),
    ],
)
def test_lvis_files_with_other_categories_for_a_data_set_that_finds_them_by_name(broken, change, expected):
    folder, cfg = broken
    edit(folder / TRAIN, change)
    found = [(f.severity, f.code, f.ids) for f in findings_of(cfg, 'train')]
    assert expected in found if expected else not [code for _, code, _ in found if code == 'class-order']


@pytest.mark.parametrize(
    'names, severity, code',
    [
        (('date', 'elder', 'fig'), 'warning', ('extra-category', ('elder',))),
        (('date', 'pear'), 'error', ('missing-category', ('fig',))),
    ],
)
def test_coco_files_with_other_categories(tmp_path, names, severity, code):
    assert code in codes(findings_of(coco_dataset(tmp_path / 'd', names)), severity)


def test_the_lvis_metric_numbers_all_categories_also_of_a_data_set_that_finds_them_by_name(tmp_path):
    cfg = coco_validation_set(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', lambda content: content['categories'].insert(0, dict(id=5, name='food')))
    assert codes(findings_of(cfg)) == [('extra-category', ('food',))]
    cfg.val_evaluator.type = 'FastLVISMetric'
    assert ('unnamed-category', ('food',)) in codes(findings_of(cfg), 'error')


def test_a_name_that_two_categories_share_is_odd_but_can_be_learned(tmp_path):
    cfg = coco_dataset(tmp_path / 'd', ('date', 'fig', 'date'))
    cfg.train_dataloader.dataset.metainfo.classes = ('date', 'fig', 'date')
    cfg.model.bbox_head.num_classes = 3
    report = validate_config(cfg, progress=False)
    assert codes(report.findings, 'warning') == codes(report.findings) == [('shared-category-name', ('date',))]
    assert report.rows == [('train', 2, 3, 0, 3, 0, 3)]


def test_images_and_classes_without_instances(broken):
    folder, cfg = broken
    train = json.loads((folder / TRAIN).read_text())
    category = min(train['categories'], key=lambda c: c['instance_count'])
    keep = [a for a in train['annotations'] if a['category_id'] != category['id'] and a['image_id'] != 3]
    edit(folder / TRAIN, lambda c: c.update(annotations=keep))
    present = {a['category_id'] for a in keep}
    absent = tuple(c['name'] for c in train['categories'] if c['id'] not in present)
    findings = dict(codes(findings_of(cfg, 'train'), 'warning'))
    assert 3 in findings['image-without-annotations'] and findings['class-without-instance'] == absent
    assert not codes(findings_of(cfg, 'train'), 'error')


@pytest.mark.parametrize(
    'change',
    [
        lambda c: [a.update(bbox=[v / 80 for v in a['bbox']]) for a in c['annotations']],
        lambda c: [a.update(iscrowd=1) for a in c['annotations']],
    ],
)
def test_no_instance_to_train_on(broken, change):
    folder, cfg = broken
    edit(folder / TRAIN, change)
    assert ('no-training-instance', ()) in codes(findings_of(cfg, 'train'), 'error')


# ---------------------------------------------------------------- V3Det


@pytest.fixture
def v3det(tmp_path):
    """A config for V3Det's data set, and the file of its class names."""
    cfg, names = coco_dataset(tmp_path / 'V3Det', segmentation=False), tmp_path / V3DET_NAMES
    names.parent.mkdir()
    names.write_text('date\nfig\n')
    dataset = cfg.train_dataloader.dataset
    dataset.update(type='V3DetDataset', pipeline=[dict(type='LoadAnnotations', with_bbox=True)])
    dataset.pop('metainfo')
    return cfg, names


@pytest.mark.parametrize(
    'text, expected',
    [
        ('date\nfig\n', []),
        ('fig\ndate\n', ['class-order']),
        ('date\n\nfig\n', ['missing-category']),
        ('fig\nfig\n', ['duplicate-class', 'extra-category']),
        ('\ufeffdate\nfig\n', ['byte-order-mark']),
        ('date\nfig\xe9\n'.encode('latin-1'), ['not-utf8']),
    ],
)
def test_v3dets_list_of_names(v3det, text, expected):
    cfg, names = v3det
    names.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert [f.code for f in findings_of(cfg, images=True) if f.dataset == 'train'] == expected


def test_a_list_of_names_of_another_version(v3det):
    cfg, names = v3det
    names.write_text('date\nfig\ngrape\n')
    lacking, heads = findings_of(cfg)
    assert codes([lacking, heads]) == [
        ('missing-category', ('grape',)),
        ('num-classes-mismatch', ('model.bbox_head.num_classes',)),
    ]
    assert f'{names} has 3 names, but the file 2 categories' in lacking.message


def test_a_missing_list_of_names(v3det):
    cfg, names = v3det
    names.unlink()
    (finding,) = findings_of(cfg)
    assert codes([finding]) == [('missing-file', (str(names),))]
    assert finding.message.startswith(f"missing: {names}; this list of V3Det's class names")


# ---------------------------------------------------------------- model


@pytest.mark.parametrize(
    'change, setting',
    [
        (dict(bbox_head=dict(num_classes=80)), 'model.roi_head.bbox_head.num_classes'),
        (dict(bbox_head=dict(loss_cls=dict(num_classes=80))), f'{LOSS}.num_classes'),
        (dict(mask_head=dict(num_classes=80)), 'model.roi_head.mask_head.num_classes'),
        (dict(bbox_head=[dict(num_classes=48), dict(num_classes=80)]), 'model.roi_head.bbox_head.1.num_classes'),
    ],
)
def test_a_head_for_another_number_of_classes(broken, change, setting):
    cfg = broken[1]
    cfg.merge_from_dict(dict(model=dict(roi_head=change)))
    assert ('num-classes-mismatch', (setting,)) in codes(findings_of(cfg, 'train'), 'error')


@pytest.mark.parametrize(
    'file, code, ids',
    [
        ('nowhere.json', 'invalid-class-frequency', ('nowhere.json',)),
        (str(SHIPPED), 'class-without-frequency', tuple(CATEGORIES)),
        ('list.json', 'frequency-count-mismatch', ('list.json',)),
    ],
)
def test_class_frequencies_from_another_file(broken, monkeypatch, file, code, ids):
    folder, cfg = broken
    monkeypatch.chdir(folder)
    (folder / 'list.json').write_text('[0.5, 0.5]')
    cfg.model.roi_head.bbox_head.loss_cls.class_frequency = file
    (finding,) = findings_of(cfg, 'train')
    assert codes([finding]) == [(code, ids)] and f'{LOSS}.class_frequency: ' in finding.message


@pytest.mark.parametrize('of_training', [True, False])
def test_class_frequencies_are_found_by_name(tmp_path, of_training):
    cfg = coco_dataset(tmp_path / 'd', ('food', 'date', 'fig'))
    source = tmp_path / ('d/a.json' if of_training else 'other.json')
    if not of_training:
        source.write_text((tmp_path / 'd/a.json').read_text())
        edit(source, lambda content: content['categories'].reverse())
    cfg.model.bbox_head.loss_cls = dict(class_frequency=str(source), num_classes=2)
    assert codes(findings_of(cfg)) == [('extra-category', ('food',))]
    edit(source, first('categories', name='elder'))  # 'food', which is not used, or 'fig'
    assert codes(findings_of(cfg), 'error') == [('class-without-frequency', ('fig',))] * (not of_training)


def test_what_the_loss_has_measured_of_another_file_is_not_measured_again(tmp_path):
    cfg, source = coco_dataset(tmp_path / 'd'), tmp_path / 'other.json'
    source.write_text((tmp_path / 'd/a.json').read_text())
    cfg.model.bbox_head.loss_cls = dict(class_frequency=str(source), num_classes=2)
    load_class_frequency(source)
    size, time = source.stat().st_size, source.stat().st_mtime_ns
    source.write_text(' ' * size)
    os.utime(source, ns=(time, time))
    assert findings_of(cfg) == []
    os.utime(source)
    assert codes(findings_of(cfg)) == [('invalid-class-frequency', (str(source),))]


def test_heads_whose_number_of_classes_means_something_else(broken):
    cfg = broken[1]
    cfg.model = dict(
        bbox_head=dict(num_classes=80),
        rpn_head=dict(num_classes=1),
        mask_head=dict(num_classes=1, class_agnostic=True),
        text=dict(bbox_head=dict(type='GroundingDINOHead', num_classes=256)),
    )
    assert codes(findings_of(cfg, 'train')) == [('num-classes-mismatch', ('model.bbox_head.num_classes',))]


def test_data_sets_that_differ_in_their_classes(broken):
    cfg = broken[1]
    cfg.val_dataloader.dataset.metainfo = dict(classes=CATEGORIES[:47])
    of_model = [f for f in findings_of(cfg, 'train', 'val') if f.dataset == 'model']
    assert codes(of_model) == [('class-count-mismatch', ('train', 'val'))]


def test_a_class_frequency_file_of_validation_annotations_is_not_read(broken):
    folder, cfg = broken
    cfg.model.roi_head.bbox_head.loss_cls.class_frequency = 'nowhere.json'
    assert findings_of(cfg, 'val') == [] and (folder / VAL).is_file()
