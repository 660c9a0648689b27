"""Each test breaks a copy of a sound, small data set in one way."""

import copy
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.paths import ROOT
from mmengine.config import Config
from PIL import Image

from apa_mmdet.datasets.tiny_lvis.generate import CATEGORIES, make_tiny_lvis
from apa_mmdet.datasets.validation import validate_config as check
from apa_mmdet.datasets.validation.annotations import read_annotations
from apa_mmdet.evaluation.functional.lvis_eval import load_ground_truth

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
TRAIN, VAL = 'annotations/lvis_v1_train.json', 'annotations/lvis_v1_val.json'
HAS_MASKS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A data set and its config; every class is in it."""
    folder = tmp_path_factory.mktemp('sound') / 'data/tiny_lvis'
    make_tiny_lvis(folder, train=40, val=4, size=(80, 64), progress=False)
    return folder, Config.fromfile(TINY)


@pytest.fixture
def broken(sound, tmp_path):
    """A copy of the data set, to be broken, and a config for it."""
    folder, cfg = tmp_path / 'data/tiny_lvis', copy.deepcopy(sound[1])
    shutil.copytree(sound[0], folder)
    for split in check.SPLITS:
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.get('dataset', dataset).data_root = str(folder)
    for split in check.SPLITS[1:]:
        cfg[f'{split}_evaluator'].ann_file = str(folder / VAL)
    cfg.model.roi_head.bbox_head.loss_cls.class_frequency = str(folder / TRAIN)
    return folder, cfg


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def found(cfg, *splits, images=False, **kwargs):
    """Severity, data set and message of each finding."""
    report = check.check_config(cfg, splits or check.SPLITS, images, progress=False, **kwargs)
    return [tuple(finding) for finding in report.findings]


# ---------------------------------------------------------------- nothing wrong


@pytest.mark.parametrize('workers', [0, 2])
def test_a_sound_data_set(broken, workers):
    folder, cfg = broken
    report = check.check_config(cfg, workers=workers, progress=False)
    assert report.findings == [] and report.errors == 0
    train, val = (json.loads((folder / f).read_text()) for f in (TRAIN, VAL))
    rare = sum(c['image_count'] <= 10 for c in train['categories'])
    empty = 48 - len({a['category_id'] for a in val['annotations']})
    assert report.rows == [
        ('train', 40, len(train['annotations']), 48, 0, rare),
        ('val, test', 4, len(val['annotations']), 48, empty, 48 - empty),
    ]
    assert str(report).splitlines()[-1] == 'no errors, no warnings: training can start'


def test_wrapped_data_sets_are_found_and_shared_ones_read_once(broken):
    cfg = broken[1]
    train = cfg.train_dataloader.dataset
    other = dict(train.dataset, ann_file=VAL)
    balanced = dict(type='ClassBalancedDataset', oversample_thr=1.0, dataset=other)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[train, balanced, other])
    )
    report = check.check_config(cfg, images=False, progress=False)
    assert [row[0] for row in report.rows] == ['train', 'train, val, test'] and not report.errors


def test_lvis_may_spell_a_class_in_its_own_way():
    from mmdet.datasets import LVISV1Dataset

    classes = LVISV1Dataset.METAINFO['classes']
    counts = json.loads((ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json').read_text())
    names = [c['name'] for c in counts['categories']]  # of the annotation file
    assert [n for n in names if n not in classes] == ['speaker_(stero_equipment)']
    notes = check.Notes('train')
    check._compare_classes(classes, names, False, notes)
    assert notes.findings == []


# ---------------------------------------------------------------- annotation files


@pytest.mark.parametrize(
    'text, line',
    [
        ('', 'is empty; get it again'),
        ('{"images": [{"id": 1, "file_name": "a', 'breaks off after 37 characters; get it again'),
        ('{"images": [], "annotations": [{"id": 1}, {"id": 2', 'breaks off after 50 characters; get it again'),
        (
            '<html><body>404 Not Found</body></html>',
            'is not JSON (Expecting value, line 1, column 1); it should be the unpacked annotation file',
        ),
        ('[1, 2]', 'holds a list instead of an object with images, annotations and categories'),
        (b'PK\x03\x04\xff\xfe', 'is an archive; unpack it'),
        (b'\x1f\x8b\x08\x00', 'is an archive; unpack it'),
        ('{"images": ["Käse"]}'.encode('latin-1'), 'is not JSON in UTF-8; save it in that encoding, or get it again'),
        ('[' * 100_000, 'is nested too deeply for an annotation file; get it again'),
        (
            '{"images": ' + '1' * 5000 + '}',
            'cannot be read (Exceeds the limit (4300 digits) for integer string conversion: '
            'value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit); correct it',
        ),
    ],
)
def test_a_file_that_is_no_annotation_file(broken, text, line):
    folder, cfg = broken
    (folder / TRAIN).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert found(cfg, 'train') == [('error', 'train', f'{folder / TRAIN} {line}')]


def test_a_cut_off_file_is_known_wherever_it_ends(sound, tmp_path):
    text = (sound[0] / VAL).read_text().strip()
    for end in np.linspace(1, len(text) - 1, 60).astype(int):
        (tmp_path / 'cut.json').write_text(text[:end])
        with pytest.raises(ValueError, match=f'breaks off after {end} characters'):
            read_annotations(str(tmp_path / 'cut.json'))


def test_a_missing_annotation_file(broken):
    folder, cfg = broken
    (folder / VAL).unlink()
    assert found(cfg, 'val', 'test') == [
        ('error', 'val, test', f'missing: {folder / VAL}; make the data set with: python tools/make_tiny_lvis.py')
    ]


def first(kind, **values):
    """Give the first record of a list other values; None takes the field away."""

    def change(content):
        content[kind][0].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del content[kind][0][key]

    return change


def twice(kind):
    return lambda content: content[kind].append(dict(content[kind][-1]))


ERRORS = [
    (lambda c: c.pop('annotations'), 'the annotation file has no "annotations"; it should be one of instances'),
    (lambda c: c.update(images=[]), 'the annotation file has no "images"; it should be one of instances'),
    (lambda c: c.pop('categories'), 'the annotation file has no "categories"; it should be one of instances'),
    (lambda c: c['images'].append(7), 'entries of "images" that are no objects: 1 of 41, e.g. 7; remove them'),
    (twice('annotations'), r'ids of annotations used more than once: 1 of \d+, e.g. \d+; number them anew'),
    (twice('images'), 'ids of images used more than once: 1 of 41, e.g. 40; number them anew'),
    (twice('categories'), 'ids of categories used more than once: 1 of 49, e.g. 48; number them anew'),
    (
        first('categories', name=CATEGORIES[1]),
        f'names of categories used more than once: 1 of 48, e.g. {CATEGORIES[1]}; give each its own',
    ),
    (first('categories', name=None), r'categories without "name" \(a text\): 1 of 48, e.g. 1; add it'),
    (first('categories', name=' '), r'categories without "name" \(a text\): 1 of 48, e.g. 1; add it'),
    (first('annotations', image_id=99), r'annotations of images that are not in the file: .* 1 \(image 99\)'),
    (
        first('annotations', category_id=0),
        r'annotations of categories that are not in the file: 1 of \d+, e.g. 1 \(category 0\)',
    ),
    (first('annotations', area=None), r'annotations without "area" \(a number\): 1 of \d+, e.g. 1; add it'),
    (first('annotations', bbox=[1, 2, 3]), r'annotations without "bbox" \(\[x, y, width, height\]\): 1 of '),
    (first('annotations', bbox=[1, 2, 3, float('nan')]), r'annotations without "bbox" .*: 1 of \d+, e.g. 1;'),
    (first('annotations', bbox=[1, 2, 3, 10**400]), r'annotations without "bbox" .*: 1 of \d+, e.g. 1;'),
    (first('annotations', area=10**400), r'annotations without "area" \(a number\): 1 of \d+, e.g. 1; add it'),
    (first('images', width=10**400), r'images without "width" \(pixels\): 1 of 40, e.g. 1; add it'),
    (
        lambda c: [a.update(image_id=str(a['image_id'])) for a in c['annotations']],
        'annotations of images that are not '
        r"in the file: .* \(image '\d+'\); an id is a number in one place and a text in the other \('\d+'\): take num",
    ),
    (
        lambda c: [a.update(bbox=[40, 32, 79, 63]) for a in c['annotations'][::9]],
        'boxes that reach more than a pixel '
        r'out of their image: .*; perhaps \[x1, y1, x2, y2\] instead of \[x, y, width, height\], or of another scale',
    ),
    (lambda c: [a.update(bbox=[v / 80 for v in a['bbox']]) for a in c['annotations']], 'not one instance to train'),
    (lambda c: [a.update(iscrowd=1) for a in c['annotations']], 'not one instance to train on: all are left out, '),
    (first('annotations', id=None), r'annotations without "id" \(a number\): 1 of \d+, e.g. number 0; add it'),
    (first('images', width=None), r'images without "width" \(pixels\): 1 of 40, e.g. 1; add it'),
    (first('images', coco_url=None), "LVISV1Dataset cannot tell where its images are: no 'coco_url' in data_prefix or"),
    (
        first('annotations', segmentation=None),
        r'instances without a mask: 1 of \d+, e.g. 1; .*LoadPartialMaskAnnotations',
    ),
    (
        first('annotations', segmentation=[]),
        r'instances without a mask: 1 of \d+, e.g. 1; .*LoadPartialMaskAnnotations',
    ),
    (first('annotations', segmentation=[1, 1, 9, 1, 9, 9]), r'masks that are neither polygons .*: 1 of \d+, e.g. 1;'),
    (first('annotations', segmentation=dict(counts=[5])), r'masks that are neither polygons .*: 1 of \d+, e.g. 1;'),
    (first('annotations', segmentation=dict(size=80, counts=[5])), r'masks that are neither polygons .*: 1 of \d+,'),
    *(
        (
            first('annotations', segmentation=[[1, 1, 9, 1, 9, value]]),
            r'masks with coordinates that are no numbers, or far from any image: 1 of \d+, e.g. 1; ',
        )
        for value in (float('nan'), None, '5', [5], 1e30, 10**400)
    ),
    (
        first('annotations', segmentation=[[-9e5, 0, 9e5, 0, 0, 9e5] * 3]),
        r'masks with an outline of more than 10,000,000 pixels: 1 of \d+, e.g. 1; correct or remove them',
    ),
    (first('images', width=2**16, height=2**16), r'images of more than 1,073,741,824 pixels: 1 of 40, e.g. 1; no'),
    *(
        (
            first('annotations', segmentation=dict(size=[64, 80], counts=counts)),
            r'masks that do not fill their image: 1 of \d+, e.g. 1; the runs of "counts" must add up to height times width',
        )
        for counts in ([], [5], [-1, 5121], [5120.0], ['5120'], [None], '', '0', 'x', 'é', 'PPPPPPPPPPP0', 'Q5')
    ),
    (
        first('annotations', segmentation=dict(size=[80, 64], counts=[80 * 64])),
        r'masks of another size than their image: 1 of \d+, e.g. 1; "size" must be \[height, width\]',
    ),
    (
        lambda c: c['categories'].pop(),
        f'classes of the config that the annotation file lacks: 1 of 48, e.g. {CATEGORIES[-1]}; it has {CATEGORIES[0]}, ',
    ),
    (
        lambda c: c['categories'].append(dict(id=49, name='pear')),
        "categories of the annotation file that the config's classes lack: 1 of 49, e.g. pear; this data set numbers",
    ),
    (
        lambda c: c['categories'].reverse(),
        "the config's classes have another order than the file's categories, "
        rf'from {CATEGORIES[0]} \(config\) and {CATEGORIES[-1]} \(file\) on',
    ),
]


@pytest.mark.parametrize('change, line', ERRORS)
def test_an_error_in_the_annotations(broken, change, line):
    folder, cfg = broken
    edit(folder / TRAIN, change)
    findings = found(cfg, 'train')
    assert any(re.match(line, message) for severity, _, message in findings if severity == 'error'), findings


WARNINGS = [
    (first('annotations', bbox=[70, 60, 12, 6]), 'boxes that reach more than a pixel out of their image'),
    (first('annotations', bbox=[-1.5, 0, 9, 9]), 'boxes that reach more than a pixel out of their image'),
    (first('annotations', bbox=[1, 1, 0, 5]), 'boxes without area', 'instances that mmdet leaves out'),
    (first('annotations', area=0), 'boxes without area', 'instances that mmdet leaves out'),
    (first('annotations', bbox=[1, 1, 0.9, 5]), 'instances that mmdet leaves out'),
    (
        first('annotations', bbox=[90, 1, 5, 5]),
        'boxes that reach more than a pixel out of their image',
        'instances that mmdet leaves out',
    ),
    (first('annotations', ignore=1), 'instances that mmdet leaves out'),
    (first('annotations', segmentation=[[1, 1, 9, 9]]), 'masks with polygons that are empty, shorter than three'),
    (first('annotations', segmentation=[[1, 1, 9, 9, 1, 9, 5]]), 'masks with polygons that are empty, shorter'),
    (first('annotations', segmentation=[[1, 1, 9, 9, 1, 9], []]), 'masks with polygons that are empty, shorter'),
]


@pytest.mark.parametrize('change, line, also', [(*w, None)[:3] for w in WARNINGS])
def test_a_warning_about_the_annotations(broken, change, line, also):
    folder, cfg = broken
    edit(folder / TRAIN, change)
    edit(
        folder / TRAIN,
        lambda c: c['annotations'].append(
            dict(c['annotations'][1], id=9999, category_id=c['annotations'][0]['category_id'])
        ),
    )  # so that the class of the first is not without instances
    findings = found(cfg, 'train')
    assert [severity for severity, _, _ in findings] == ['warning'] * (1 + bool(also))
    for start, (_, _, message) in zip((line, also), findings):
        assert re.match(rf'{start}.*: 1 of \d+, e.g. 1; ', message)


@pytest.mark.parametrize(
    'box, area',
    [
        ([70, 60, 12, 6], 5),
        ([-1.5, 0, 9, 9], 5),
        ([1, 1, 0, 5], 5),
        ([1, 1, 3, 3], 0),
        ([1, 1, 0.9, 5], 5),
        ([90, 1, 5, 5], 5),
        ([80, 1, 1, 1], 5),
        ([-3, 1, 3, 3], 5),
    ],
)
def test_mmdet_leaves_out_what_the_check_says(broken, box, area):
    from mmdet.datasets import LVISV1Dataset

    folder, cfg = broken
    edit(folder / TRAIN, first('annotations', bbox=box, area=area))
    dataset = LVISV1Dataset(
        ann_file=str(folder / TRAIN), data_prefix=dict(img=''), pipeline=[], metainfo=dict(classes=CATEGORIES)
    )
    total = len(json.loads((folder / TRAIN).read_text())['annotations'])
    left_out = total - sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    said = [m for _, _, m in found(cfg, 'train') if m.startswith('instances that mmdet leaves out: 1 of')]
    assert len(said) == left_out


def test_images_and_classes_without_instances(broken):
    folder, cfg = broken
    train = json.loads((folder / TRAIN).read_text())
    category = min(train['categories'], key=lambda c: c['instance_count'])
    keep = [a for a in train['annotations'] if a['category_id'] != category['id'] and a['image_id'] != 3]
    edit(folder / TRAIN, lambda c: c.update(annotations=keep))
    lost = len(train['categories']) - len({a['category_id'] for a in keep})
    findings = found(cfg, 'train')
    assert {severity for severity, _, _ in findings} == {'warning'}
    messages = [message for _, _, message in findings]
    assert any(re.match(r'images without annotations: \d of 40, e.g. .*\b3\b', m) for m in messages)
    assert any(m.startswith(f'classes without a training instance: {lost} of 48') for m in messages)


def test_what_the_lvis_metric_needs(broken):
    folder, cfg = broken
    edit(folder / VAL, first('images', neg_category_ids=None))
    edit(folder / VAL, first('categories', frequency=None))
    assert [(severity, message) for severity, _, message in found(cfg, 'val')] == [
        (
            'error',
            'images without "neg_category_ids": 1 of 4, e.g. 1; LVIS\'s metric needs it; '
            'take CocoMetric for data without',
        ),
        (
            'error',
            f'categories without "frequency" (r, c or f): 1 of 48, e.g. {CATEGORIES[0]}; LVIS\'s metric needs it'
            '; take CocoMetric for data without',
        ),
    ]


@pytest.mark.parametrize(
    'change, line',
    [
        (first('annotations', bbox=[9, 9, -5, 5]), r'boxes with a negative width, height or "area": 1 of \d+, e.g. 1'),
        (first('images', id='x'), "ids of images that are no whole number of 64 bits: 1 of 4, e.g. 'x'; LVIS"),
        (first('categories', id=2**63), 'ids of categories that are no whole number of 64 bits: 1 of 48, e.g. 9223'),
        (
            first('annotations', segmentation=[[1, 1, 9, 9]]),
            r'masks whose first polygon is empty or .*: 1 of \d+, e.g. 1',
        ),
        (
            first('annotations', segmentation=[[1, 1, 2e7, 9, 9, 9]]),
            r'masks with coordinates .*, or far from any image: 1',
        ),
        (first('annotations', segmentation=[]), r'instances without a mask: 1 of \d+, e.g. 1'),
    ],
)
def test_what_the_lvis_metric_refuses_is_an_error(broken, change, line):
    folder, cfg = broken
    edit(folder / VAL, change)
    cfg.val_evaluator.metric = ['bbox', 'segm']
    assert any(re.match(line, message) for severity, _, message in found(cfg, 'val') if severity == 'error')
    with pytest.raises(ValueError, match=VAL):
        load_ground_truth(str(folder / VAL))


@pytest.mark.parametrize(
    'change',
    [
        first('annotations', segmentation=[[1, 1, 9, 1, 9, 9], []]),
        first('annotations', segmentation=[[1, 1, 9, 1, 9, 9, 7], [1, 1]]),
        first('annotations', segmentation=[[1, 1, 9, 1, 9]]),
        first('images', height=64.0),
        first('annotations', area=0),
    ],
)
def test_what_the_lvis_metric_takes_is_none(broken, change):
    folder, cfg = broken
    edit(folder / VAL, change)
    cfg.val_evaluator.metric = ['bbox', 'segm']
    assert 'error' not in [severity for severity, *_ in found(cfg, 'val')]
    load_ground_truth(str(folder / VAL))


# ---------------------------------------------------------------- images


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def enlarge(path):
    cv2.imwrite(str(path), np.zeros((64, 81, 3), np.uint8))


def turn(path):
    """By the orientation tag of photos, which OpenCV obeys."""
    image = Image.open(path)
    image.load()
    image.getexif()[274] = 6
    image.save(path, 'jpeg', exif=image.getexif())


@pytest.mark.parametrize(
    'harm, line',
    [
        (
            Path.unlink,
            'missing images: 1 of 4, e.g. {}; put them there, or correct data_root and data_prefix; make the '
            'data set with: python tools/make_tiny_lvis.py',
        ),
        (cut, r'images that cannot be read: 1 of 4, e.g. {} \(image file is truncated \(\d+ bytes not processed\)\); '),
        (lambda path: path.write_bytes(b''), r'images that cannot be read: 1 of 4, e.g. {} \(the file is empty\); get'),
        (
            lambda path: path.write_text('<html>not found</html>'),
            r'images that cannot be read: 1 of 4, e.g. {} \(not an image that OpenCV reads\); get them again',
        ),
        (enlarge, r'images of another size than annotated: 1 of 4, e.g. {} \(81x64, annotated 80x64\); correct'),
        (turn, r'images of another size than annotated: 1 of 4, e.g. {} \(64x80, annotated 80x64\); correct'),
    ],
)
@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_is_not_as_it_should_be(broken, harm, line, workers):
    folder, cfg = broken
    image = folder / 'val2017/000000000002.jpg'
    harm(image)
    ((severity, dataset, message),) = found(cfg, 'val', 'test', images=True, workers=workers)
    assert (severity, dataset) == ('error', 'val, test')
    assert re.match(line.format(re.escape(str(image))), message), message


def test_without_opening_images_the_missing_ones_are_found_all_the_same(broken):
    folder, cfg = broken
    (folder / 'val2017/000000000002.jpg').unlink()
    cut(folder / 'val2017/000000000001.jpg')
    assert [message.split(',')[0] for _, _, message in found(cfg, 'val', images=False)] == ['missing images: 1 of 4']


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.bmp', '.tiff'])
def test_every_cut_off_image_is_found(tmp_path, suffix):
    from mmcv.transforms import LoadImageFromFile

    from apa_mmdet.datasets.validation.images import check_images

    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / f'whole{suffix}'), rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    data, images = (tmp_path / f'whole{suffix}').read_bytes(), []
    for end in np.linspace(0, len(data) - 1, 12).astype(int):
        images.append((str(tmp_path / f'{end}{suffix}'), 30, 40))
        Path(images[-1][0]).write_bytes(data[:end])
    notes = check.Notes('train')
    check_images([(str(tmp_path / f'whole{suffix}'), 30, 40), *images], LoadImageFromFile(), notes, progress=False)
    assert [f.message.split(',')[0] for f in notes.findings] == ['images that cannot be read: 12 of 13']


# ---------------------------------------------------------------- config


MODEL = [
    (dict(bbox_head=dict(num_classes=80)), 'model.roi_head.bbox_head.num_classes is 80, but train has 48 classes; '),
    (dict(bbox_head=dict(loss_cls=dict(num_classes=80))), 'model.roi_head.bbox_head.loss_cls.num_classes is 80, but'),
    (dict(mask_head=dict(num_classes=80)), 'model.roi_head.mask_head.num_classes is 80, but train has 48 classes'),
    (dict(bbox_head=[dict(num_classes=48), dict(num_classes=80)]), 'model.roi_head.bbox_head[1].num_classes is 80, '),
    (
        dict(bbox_head=dict(loss_cls=dict(class_frequency='nowhere.json'))),
        'model.roi_head.bbox_head.loss_cls.class_frequency: nowhere.json: no such file of class frequencies',
    ),
    (
        dict(
            bbox_head=dict(
                loss_cls=dict(class_frequency=str(ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'))
            )
        ),
        'has 1203 classes, but the loss has 48;',
    ),
]


@pytest.mark.parametrize('change, line', MODEL)
def test_a_model_for_other_classes(broken, change, line):
    cfg = broken[1]
    cfg.merge_from_dict(dict(model=dict(roi_head=change)))
    errors = [message for _, name, message in found(cfg, 'train') if name == 'model']
    assert len(errors) == 1 + ('loss_cls.num_classes' in line) and line in errors[0]


def test_a_one_stage_detector_and_a_class_agnostic_mask_head(broken):
    cfg = broken[1]
    cfg.model = dict(
        bbox_head=dict(num_classes=80),
        rpn_head=dict(num_classes=1),
        mask_head=dict(num_classes=1, class_agnostic=True),
        text=dict(bbox_head=dict(type='GroundingDINOHead', num_classes=256)),
    )
    assert [message.split(',')[0] for _, _, message in found(cfg, 'train')] == ['model.bbox_head.num_classes is 80']


def test_an_evaluator_that_reads_another_file(broken):
    folder, cfg = broken
    cfg.val_evaluator.ann_file = str(folder / TRAIN)
    assert found(cfg) == [
        (
            'error',
            'val, test',
            f'val_evaluator.ann_file is {folder / TRAIN}, but the data set reads {folder / VAL}; make them the same',
        )
    ]
    cfg.val_evaluator.ann_file = str(folder / 'train2017/..' / VAL)
    assert found(cfg) == []


def test_data_sets_that_differ_in_their_classes(broken):
    cfg = broken[1]
    cfg.val_dataloader.dataset.metainfo = dict(classes=CATEGORIES[:47])
    messages = [message for _, name, message in found(cfg, 'train', 'val') if name == 'model']
    assert messages == ['the data sets differ in their number of classes: train has 48, val has 47']


@pytest.mark.parametrize(
    'change, line',
    [
        (
            dict(type='PearDataset'),
            'no data set class PearDataset is registered; correct its name, or import its module',
        ),
        (dict(type='VOCDataset'), "not checked: VOCDataset does not read instances in COCO's format"),
        (dict(colour='red'), 'the data set or its pipeline cannot be built (TypeError: '),
        (
            dict(pipeline=[dict(type='LoadAnnotations', with_ears=True)]),
            'the data set or its pipeline cannot be built (',
        ),
        (dict(ann_file=''), 'the data set has no ann_file; name its annotation file'),
        (
            dict(metainfo=dict(classes='pear')),
            "the classes of the data set are 'pear'; give metainfo=dict(classes=(…, ))",
        ),
    ],
)
def test_a_data_set_that_cannot_be_built(broken, change, line):
    cfg = broken[1]
    cfg.train_dataloader.dataset = dict(cfg.train_dataloader.dataset.dataset, **change)
    report = check.check_config(cfg, ['train'], progress=False)
    ((severity, name, message),) = report.findings
    assert message.startswith(line) and '\n' not in message and name == 'train'
    assert severity == ('warning' if 'not checked' in message else 'error')
    assert str(report).endswith('nothing was checked' if severity == 'warning' else 'mend the errors before training')


def test_a_config_without_data_sets():
    assert found(Config(dict(model=dict())), 'train', 'val') == [
        ('error', 'config', 'no data set in train_dataloader or val_dataloader')
    ]


def test_what_was_not_checked_is_not_vouched_for(broken):
    cfg = broken[1]
    cfg.val_dataloader.dataset = dict(type='VOCDataset')
    report = check.check_config(cfg, ['train', 'val'], images=False, progress=False)
    assert str(report).endswith('no errors, 1 warning: training can start, as far as checked')


@pytest.mark.parametrize(
    'change, line',
    [
        (dict(train_dataloader='data'), "train_dataloader is 'data'; it must be a dict"),
        (dict(train_dataloader=dict(dataset='coco')), "a data set of the config is 'coco'; it must be a dict"),
    ],
)
def test_a_config_of_another_form(change, line):
    with pytest.raises(ValueError, match=line):
        found(Config(change), 'train')


@pytest.mark.parametrize(
    'filter_cfg, kept',
    [(dict(min_size=65), False), (dict(min_size=64), True), (dict(filter_empty_gt=True, min_size=64), True)],
)
def test_a_filter_that_keeps_no_image(broken, filter_cfg, kept):
    cfg = broken[1]
    cfg.train_dataloader.dataset.dataset.filter_cfg = filter_cfg
    assert found(cfg, 'train') == (
        [] if kept else [('error', 'train', f'filter_cfg={filter_cfg} keeps none of 40 images; loosen it')]
    )


def test_a_mask_head_without_masks_to_learn(broken):
    cfg = broken[1]
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    cfg.train_dataloader.dataset.dataset.pipeline = pipeline
    ((severity, name, message),) = found(cfg, 'train')
    assert (severity, name) == ('error', 'train')
    assert message.startswith('the model has a mask_head, but the training pipeline loads no masks; give its')
    del cfg.model.roi_head.mask_head
    assert found(cfg, 'train') == []


# ---------------------------------------------------------------- COCO, V3Det


def coco_data(folder, names=('date', 'fig'), segmentation=True):
    """Two images, an instance of each class; a config for it."""
    folder.mkdir()
    for i in (1, 2):
        cv2.imwrite(str(folder / f'{i}.png'), np.zeros((40, 50, 3), np.uint8))
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=50, height=40) for i in (1, 2)],
        annotations=[
            dict(id=i, image_id=1 + i % 2, category_id=10 * i, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
            for i in range(1, len(names) + 1)
        ],
        categories=[dict(id=10 * i, name=name) for i, name in enumerate(names, 1)],
    )
    for annotation in content['annotations'] if segmentation else ():
        annotation['segmentation'] = [[1, 1, 10, 1, 10, 10, 1, 10]]
    (folder / 'a.json').write_text(json.dumps(content))
    dataset = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='a.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('date', 'fig')),
        pipeline=HAS_MASKS,
    )
    return Config(dict(train_dataloader=dict(dataset=dataset), model=dict(bbox_head=dict(num_classes=2))))


def test_coco_data(tmp_path):
    cfg = coco_data(tmp_path / 'd')
    report = check.check_config(cfg, progress=False)
    assert report.findings == [] and report.rows == [('train', 2, 2, 2, 0, 2)]
    del cfg.train_dataloader.dataset.data_prefix
    assert found(cfg) == [
        ('error', 'train', 'CocoDataset cannot tell where its images are: no \'img\' in data_prefix or "images"')
    ]


@pytest.mark.parametrize(
    'names, severity, line',
    [
        (
            ('date', 'elder', 'fig'),
            'warning',
            "categories of the annotation file that the config's classes lack: 1 of 3, e.g. elder; their instances are left",
        ),
        (
            ('date', 'pear'),
            'error',
            'classes of the config that the annotation file lacks: 1 of 2, e.g. fig; it has date, pear;',
        ),
        (
            ('fig', 'date'),
            'error',
            "the config's classes have another order than the file's categories, from date (config) and fig (file) on",
        ),
        (
            ('date', 'fig', 'fig'),
            'error',
            'names of categories used more than once: 1 of 3, e.g. fig; give each its own',
        ),
    ],
)
def test_coco_data_with_other_categories(tmp_path, names, severity, line):
    assert any(s == severity and message.startswith(line) for s, _, message in found(coco_data(tmp_path / 'd', names)))


@pytest.mark.parametrize(
    'loader, metric, severity',
    [
        ('LoadAnnotations', 'bbox', 'error'),
        ('LoadPartialMaskAnnotations', 'bbox', 'warning'),
        ('LoadPartialMaskAnnotations', ['bbox', 'segm'], 'error'),
        (None, 'bbox', None),
    ],
)
def test_instances_without_masks(tmp_path, loader, metric, severity):
    cfg = coco_data(tmp_path / 'd', segmentation=False)
    cfg.val_dataloader = cfg.pop('train_dataloader')
    cfg.val_dataloader.dataset.pipeline = [dict(type=loader, with_mask=True)] if loader else []
    cfg.val_evaluator = dict(type='CocoMetric', metric=metric)
    assert [(s, m.split(',')[0]) for s, _, m in found(cfg)] == [(severity, 'instances without a mask: 2 of 2')] * bool(
        severity
    )


def evaluated(folder, metric='bbox', **evaluator):
    """The same, as a validation set."""
    cfg = coco_data(folder)
    cfg.val_dataloader = cfg.pop('train_dataloader')
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(folder / 'a.json'), metric=metric, **evaluator)
    return cfg


@pytest.mark.parametrize(
    'change, line',
    [
        (dict(iscrowd=None), 'annotations without "iscrowd" (0 or 1): 1 of 2, e.g. 1; add it, CocoMetric needs it'),
        (dict(iscrowd='0'), 'annotations without "iscrowd" (0 or 1): 1 of 2, e.g. 1; add it, CocoMetric needs it'),
        (
            dict(id=0),
            'ids of annotations that are no whole number from 1 to 2^53: 1 of 2, e.g. 0; number them from 1: metrics take 0 for',
        ),
        (
            dict(id='a'),
            "ids of annotations that are no whole number from 1 to 2^53: 1 of 2, e.g. 'a'; number them from 1: metrics take 0",
        ),
        *(
            (
                values,
                'boxes with a negative width, height or "area": 1 of 2, e.g. 1; correct or remove them: the metric',
            )
            for values in (dict(bbox=[1, 1, -9, 9]), dict(bbox=[1, 1, 9, -9]), dict(area=-81))
        ),
    ],
)
def test_what_the_coco_metric_needs(tmp_path, change, line):
    cfg = evaluated(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('annotations', **change))
    evaluator = cfg.val_evaluator
    for form in (evaluator, [evaluator], dict(metrics=[evaluator])):
        cfg.val_evaluator = form
        ((severity, _, message), *others) = found(cfg)
        assert severity == 'error' and message.startswith(line) and {s for s, *_ in others} <= {'warning'}
    cfg.train_dataloader = cfg.pop('val_dataloader')
    taken_for_a_crowd = change.get('iscrowd') == '0'
    assert (
        'error' in [severity for severity, _, _ in found(cfg)]
    ) == taken_for_a_crowd  # training does without the rest


@pytest.mark.parametrize(
    'segmentation',
    [
        None,
        [],
        [[]],
        [[1, 1, 9, 9]],
        [[1, 1, 9, 1, 9, 9]],
        [[1, 1, 9, 1, 9, 9], []],
        dict(size=[40, 50], counts=[5, 1995]),
    ],
)
def test_the_metric_reads_masks_of_instances_that_training_leaves_out(tmp_path, segmentation):
    from pycocotools.coco import COCO

    cfg = evaluated(tmp_path / 'd', metric=['bbox', 'segm'])
    edit(tmp_path / 'd/a.json', first('annotations', segmentation=segmentation, area=0))
    coco, readable = COCO(tmp_path / 'd/a.json'), True
    try:
        coco.annToRLE(coco.anns[1])
    except Exception:  # pycocotools raises what it likes
        readable = False
    errors = [message.split(':')[0] for severity, _, message in found(cfg) if severity == 'error']
    assert (
        errors == []
        if readable
        else errors[0]
        in ('instances without a mask', 'masks whose first polygon is empty or shorter than three points')
    )
    cfg.val_evaluator.metric = 'bbox'
    cfg.val_dataloader.dataset.pipeline = []
    assert not [message for severity, _, message in found(cfg) if severity == 'error']


def test_run_lengths_are_those_of_pycocotools():
    from pycocotools import mask as coco_mask

    from apa_mmdet.structures.rle import run_lengths

    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.01, 0.1, 0.5, 0.99, 1):
        pixels = rng.random((97, 203)) < share
        flat = np.concatenate([[False], pixels.T.ravel()])
        runs = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(flat), [True]])))
        runs[0] -= 1  # the pixel in front
        counts = coco_mask.encode(np.asfortranarray(pixels, np.uint8))['counts'].decode()
        assert run_lengths(counts).tolist() == runs.tolist()


@pytest.mark.parametrize('evaluator', [None, dict(type='CocoMetric', format_only=True, outfile_prefix='x')])
@pytest.mark.parametrize('change', [lambda c: c.pop('annotations'), lambda c: c.update(annotations=[])])
def test_a_test_set_without_annotations(tmp_path, evaluator, change):
    cfg = evaluated(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', change)
    assert [m.split(';')[0] for _, _, m in found(cfg)] == ['the annotation file has no "annotations"']
    cfg.test_dataloader, cfg.test_evaluator = cfg.pop('val_dataloader'), evaluator
    report = check.check_config(cfg, progress=False)
    assert report.findings == [] and report.rows == [('test', 2, 0, 2, 2, 0)]


def test_names_that_cannot_be_printed(tmp_path):
    cfg = coco_data(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('images', file_name='\ud800\n.png'))
    report = check.check_config(cfg, progress=False)
    (line,) = [f.message for f in report.findings]
    assert line.startswith('missing images: 1 of 2') and "\\ud800\\n.png'" in line and str(report).encode()


def v3det_data(folder):
    cfg = coco_data(folder, segmentation=False)
    (folder / 'annotations').mkdir()
    (folder / 'annotations/category_name_13204_v3det_2023_v1.txt').write_text('date\nfig\n')
    dataset = cfg.train_dataloader.dataset
    dataset.update(type='V3DetDataset', pipeline=[dict(type='LoadAnnotations', with_bbox=True)])
    dataset.pop('metainfo')
    return cfg


def test_v3det_data_and_its_list_of_names(tmp_path):
    cfg, names = v3det_data(tmp_path / 'V3Det'), tmp_path / 'V3Det/annotations/category_name_13204_v3det_2023_v1.txt'
    assert found(cfg, images=True) == []
    names.write_text('date\nfig\ngrape\n')
    assert [message.split(',')[0] for _, _, message in found(cfg)] == [
        'classes of the config that the annotation file lacks: 1 of 3',
        'model.bbox_head.num_classes is 2',
    ]
    assert f'{names} has 3 names, the annotation file 2 categories; get the list that belongs to it' in found(cfg)[0][2]
    names.unlink()
    ((severity, _, message),) = found(cfg)
    assert severity == 'error' and message.startswith(f"missing: {names}; this list of V3Det's class names")


@pytest.mark.parametrize(
    'text, lines',
    [
        (
            'fig\ndate\n',
            ["the config's classes have another order than the file's categories, from fig (config) and date"],
        ),
        (
            'date\n\nfig\n',
            ["classes of the config that the annotation file lacks: 1 of 3, e.g. ''; it has date, fig; "],
        ),
        (
            'fig\nfig\n',
            [
                'classes of the config named more than once: 1 of 2, e.g. fig; give each its own',
                "categories of the annotation file that the config's classes lack: 1 of 2, e.g. date; ",
            ],
        ),
        (
            '\ufeffdate\nfig\n',
            ['{} begins with a byte order mark, which would belong to the first class name; save it'],
        ),
        ('date\nfig\xe9\n'.encode('latin-1'), ['{} is not UTF-8; save it in that encoding, or get it again']),
    ],
)
def test_a_list_of_names_that_does_not_fit(tmp_path, text, lines):
    cfg, names = v3det_data(tmp_path / 'V3Det'), tmp_path / 'V3Det/annotations/category_name_13204_v3det_2023_v1.txt'
    names.write_bytes(text if isinstance(text, bytes) else text.encode())
    messages = [message for _, name, message in found(cfg) if name == 'train']
    assert len(messages) == len(lines)
    assert all(message.startswith(line.format(names)) for message, line in zip(messages, lines)), messages


def test_a_name_that_two_categories_share_is_odd_but_can_be_learnt(tmp_path):
    cfg = coco_data(tmp_path / 'd', ('date', 'fig', 'date'))
    cfg.train_dataloader.dataset.metainfo.classes = ('date', 'fig', 'date')
    cfg.model.bbox_head.num_classes = 3
    report = check.check_config(cfg, progress=False)
    assert [(f.severity, f.message) for f in report.findings] == [
        ('warning', 'names of categories used more than once: 1 of 3, e.g. date; results do not tell them apart')
    ]
    assert report.rows == [('train', 2, 3, 3, 0, 3)]


# ---------------------------------------------------------------- the tool


def tool(monkeypatch, *arguments):
    """The tool's exit status, in this process."""
    monkeypatch.setattr(sys, 'argv', ['check_dataset.py', *map(str, arguments)])
    return runpy.run_path(str(ROOT / 'tools/check_dataset.py'))['main']()


def test_the_tool_as_a_process(sound):
    folder = sound[0].parents[1]
    run = subprocess.run(
        [sys.executable, ROOT / 'tools/check_dataset.py', TINY, '--workers', '1'],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert '| val, test |' in run.stdout and run.stdout.endswith('no errors, no warnings: training can start\n')


def test_the_tool_says_what_is_wrong_and_ends_with_1(broken, monkeypatch, capsys):
    folder, _ = broken
    monkeypatch.chdir(folder.parents[1])
    (folder / 'val2017/000000000002.jpg').unlink()
    assert (
        tool(
            monkeypatch,
            TINY,
            '--split',
            'val',
            '--no-images',
            '--cfg-options',
            'model.roi_head.mask_head.num_classes=3',
        )
        == 1
    )
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0].startswith('error    val: missing images: 1 of 4, e.g. ')
    assert lines[1].startswith('error    model: model.roi_head.mask_head.num_classes is 3, but val has 48 classes')
    assert lines[2] == '2 errors, no warnings: mend the errors before training'


@pytest.mark.parametrize(
    'name, text, line',
    [
        ('none.py', None, 'no such file'),
        ('c.py', 'model = dict(', 'SyntaxError: '),
        ('c.py', 'x = 1 / 0', 'ZeroDivisionError: '),
        ('c.py', '_base_ = "./gone.py"', 'FileNotFoundError: '),
        ('c.txt', 'a', 'OSError: Only py/yml/yaml/json'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, monkeypatch, capsys, name, text, line):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert tool(monkeypatch, tmp_path / name) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'check_dataset: config {tmp_path / name}: {line}') and said.count('\n') == 1


@pytest.mark.parametrize(
    'option, line',
    [
        ('foo', "argument --cfg-options: 'foo' is not KEY=VALUE"),
        ('a=[1', "argument --cfg-options: 'a=[1' has brackets that do not match"),
    ],
)
def test_an_option_that_is_none(monkeypatch, capsys, option, line):
    with pytest.raises(SystemExit):
        tool(monkeypatch, TINY, '--cfg-options', option)
    assert capsys.readouterr().err.endswith(f'error: {line}\n')


def test_an_interrupt_is_quiet(monkeypatch, capsys):

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, 'check_config', interrupted)
    assert tool(monkeypatch, TINY) == 130
    assert capsys.readouterr().err == ''
