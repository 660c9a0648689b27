"""The formats of the tiny LVIS, read by MMDetection's class for the data set, and compared with the plan."""

import hashlib
import json
from collections import Counter

import cv2
import numpy as np
import pytest
from mmdet import datasets
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.tiny_lvis.formats import FORMATS
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.datasets.tiny_lvis.plan import plan_split
from apa_mmdet.datasets.tiny_lvis.scenes import ALONE, draw_scene
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES, TINY

DETECTION = [name for name, form in FORMATS.items() if form.vocabulary is TINY and name != 'imagenet']
SMALL = dict(train=16, val=3, size=(96, 72), seed=2, progress=False)
SAM = 'v3det_2023_v1_train_sam'
# format, MMDetection's class, its number of classes, split, annotation file, folder of images
READERS = [
    ('lvis_v1', 'LVISV1Dataset', 1203, 'train', 'lvis_v1_train', ''),
    ('lvis_v1', 'LVISV1Dataset', 1203, 'val', 'lvis_v1_val', ''),
    ('lvis_v0.5', 'LVISV05Dataset', 1230, 'train', 'lvis_v0.5_train', 'train2017/'),
    ('lvis_v0.5', 'LVISV05Dataset', 1230, 'val', 'lvis_v0.5_val', 'val2017/'),
    ('coco', 'CocoDataset', 80, 'train', 'instances_train2017', 'train2017/'),
    ('coco', 'CocoDataset', 80, 'val', 'instances_val2017', 'val2017/'),
    ('v3det', 'V3DetDataset', 13204, 'train', SAM, ''),  # but for the masks, train has the same: another test
    ('v3det', 'V3DetDataset', 13204, 'val', 'v3det_2023_v1_val', ''),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a set of each format, named after it."""
    folder = tmp_path_factory.mktemp('forms')
    for form in DETECTION:
        make_tiny_lvis(folder / form, **SMALL, form=form)
    return folder


def read(out, name):
    return json.loads((out / 'annotations' / f'{name}.json').read_text())


def images(out, split):
    return [p.read_bytes() for p in sorted(out.rglob('*.jpg')) if split in p.parent.name]


def contents(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob('*') if p.is_file()}


def fill(polygons, finer=16):
    """The pixels of which at least half lies within the polygons."""
    canvas = np.zeros((72 * finer, 96 * finer), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.rint(np.reshape(polygon, (-1, 2)) * finer - 0.5).astype(np.int32)], 1)
    return canvas.reshape(72, finer, 96, finer).mean((1, 3)) >= 0.5


@pytest.fixture(scope='module')
def boxes(folder):
    """Per split and image, the box of each planned object, from the format that annotates all."""
    found = {split: [[] for _ in range(SMALL[split])] for split in ('train', 'val')}
    for split, images in found.items():
        for a in read(folder / 'coco', f'instances_{split}2017')['annotations']:
            x, y, w, h = a['bbox']
            images[a['image_id'] - 1].append([x, y, x + w, y + h])
    return found


@pytest.mark.parametrize('split', ['train', 'val'])
def test_images_are_the_same_in_every_format(folder, split):
    expected = images(folder / 'tiny_lvis', split)
    assert len(set(expected)) == SMALL[split]
    for form in DETECTION:
        assert images(folder / form, split) == expected, form


@pytest.mark.parametrize('form, reader, num_classes, split, annotations, prefix', READERS)
def test_mmdet_reads_every_format_with_the_classes_of_the_data_set(
    folder, boxes, form, reader, num_classes, split, annotations, prefix
):
    reader = getattr(datasets, reader)
    dataset = reader(
        data_root=str(folder / form),
        ann_file=f'annotations/{annotations}.json',
        data_prefix=dict(img=prefix),
        pipeline=[],
        test_mode=True,
    )
    assert len(dataset.cat_ids) == len(dataset.metainfo['classes']) == num_classes
    if form != 'v3det':  # which reads them from the file of names
        assert dataset.metainfo['classes'] == reader.METAINFO['classes']
    plans = plan_split(split, SMALL[split], SMALL['seed'])
    assert split == 'val' or any(plan.dropped is not None for plan in plans)
    assert len(dataset) == len(plans)
    for k, plan in enumerate(plans):
        item = dataset.get_data_info(k)
        assert cv2.imread(item['img_path']).shape == (72, 96, 3) == (item['height'], item['width'], 3)
        kept = [i for i in range(len(plan.objects)) if i != plan.dropped or not form.startswith('lvis')]
        assert [o['bbox_label'] for o in item['instances']] == [plan.objects[i] for i in kept]
        assert [o['bbox'] for o in item['instances']] == [boxes[split][k][i] for i in kept]
        assert not any(o['ignore_flag'] for o in item['instances'])
        if annotations != SAM:
            assert all(('mask' in o) == (form != 'v3det') for o in item['instances'])


@pytest.mark.parametrize('form', list(FORMATS))
def test_same_options_give_the_same_bytes_in_every_format(tmp_path, form):
    for name in 'ab':
        made = make_tiny_lvis(tmp_path / name, train=2, val=1, size=64, progress=False, form=form)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    assert made.images == dict(train=2, val=1) and sum(made.classes.values()) == len(FORMATS[form].vocabulary.names)
    assert not make_tiny_lvis(tmp_path / 'a', train=2, val=1, size=64, progress=False, form=form).made


HASHES = {  # of the annotation files; the images depend on the JPEG encoder of OpenCV as well
    'tiny_lvis': '6d36b36856bc9d5f',
    'lvis_v1': 'c14c66fe3d844805',
    'lvis_v0.5': '53c0ddc7de77f27a',
    'coco': '414de294de327964',
    'v3det': 'ee9250884d2f6b8f',
    'small_lvis': '4d3da5556c37f321',
}


@pytest.mark.parametrize('form', HASHES)
def test_the_bytes_of_a_format_do_not_change(tmp_path, form):
    make_tiny_lvis(tmp_path, train=8, val=2, size=(96, 64), seed=1, progress=False, form=form)
    found = hashlib.sha256(b''.join(p.read_bytes() for p in sorted(tmp_path.glob('annotations/*')))).hexdigest()
    assert found.startswith(HASHES[form])


# --------------------------------------------------------------- images of one object, to classify


@pytest.fixture(scope='module')
def objects(tmp_path_factory):
    out = tmp_path_factory.mktemp('objects')
    return out, make_tiny_lvis(out, train=96, val=50, size=64, progress=False, form='imagenet')


@pytest.mark.parametrize('split, fewest, most', [('train', 2, 2), ('val', 1, 2)])
def test_objects_are_balanced_and_listed_by_the_folder_of_their_class(objects, split, fewest, most):
    out, made = objects
    lines = [line.rsplit(' ', 1) for line in (out / f'meta/{split}.txt').read_text().splitlines()]
    counts = Counter(int(label) for _, label in lines)
    assert sorted(counts) == list(range(48)) and {min(counts.values()), max(counts.values())} == {fewest, most}
    assert all(path.split('/')[0] == CATEGORIES[int(label)] for path, label in lines)
    files = {p.relative_to(out / split).as_posix() for p in (out / split).rglob('*.jpg')}
    assert files == {path for path, _ in lines} and made.images[split] == len(files)
    assert sorted({path.split('/')[0] for path in files}) == list(CATEGORIES)  # folders alone give the same classes


def test_objects_keep_their_options_numbers_and_bytes(objects, tmp_path):
    out, made = objects
    assert made.classes == dict(r=48, c=0, f=0) and made.instances == made.images
    assert json.loads((out / 'tiny_lvis.json').read_text())['form'] == 'imagenet'
    assert not make_tiny_lvis(out, train=96, val=50, progress=False, form='imagenet').made  # 64 is the usual size
    make_tiny_lvis(tmp_path, train=1, val=1, progress=False, form='imagenet')
    first = 'train/checkered_yellow_crescent/000000000001.jpg'
    assert (tmp_path / first).read_bytes() == (out / first).read_bytes()


def test_objects_vary_in_scale_place_and_light():
    shares, centers, lights = [], [], []
    for seed in range(40):
        image, (seen,) = draw_scene([('square', 'plain_green')], (64, 64), np.random.default_rng(seed), ALONE)
        mask = fill_mask(seen.polygons)
        shares.append(mask.mean())
        centers.append(np.argwhere(mask).mean(0))
        lights.append(image[mask].max(1).mean())
    assert max(shares) > 5 * min(shares) and np.ptp(centers, axis=0).min() > 20 and max(lights) > 1.5 * min(lights)


def fill_mask(polygons):
    encoded = mask_utils.frPyObjects([p.reshape(-1).tolist() for p in polygons], 64, 64)
    return mask_utils.decode(mask_utils.merge(encoded)).astype(bool)


# --------------------------------------------------------------- categories


@pytest.mark.parametrize('form', ['lvis_v1', 'lvis_v0.5'])
def test_lvis_counts_the_drawn_classes_and_marks_the_others_rare(folder, form):
    own = read(folder / 'tiny_lvis', 'lvis_v1_train')['categories']
    records = read(folder / form, f'{form}_train')['categories']
    assert records == read(folder / form, f'{form}_val')['categories']
    assert [r['id'] for r in records] == list(range(1, len(records) + 1))
    counts = ('frequency', 'image_count', 'instance_count', 'def')
    for mine, record in zip(own, records):
        assert record['drawn'] == mine['name'] and [record[c] for c in counts] == [mine[c] for c in counts]
    for record in records[48:]:
        assert [record[c] for c in counts] == ['r', 0, 0, 'never drawn'] and 'drawn' not in record
    assert all({'synset', 'synonyms'} <= record.keys() for record in records)


def test_coco_keeps_its_category_ids(folder):
    records = read(folder / 'coco', 'instances_train2017')['categories']
    ids = {record['name']: record['id'] for record in records}
    assert len(ids) == 80 and min(ids.values()) == 1
    official = {  # those beside the gaps
        'fire hydrant': 11,
        'stop sign': 13,
        'giraffe': 25,
        'backpack': 27,
        'umbrella': 28,
        'handbag': 31,
        'bottle': 44,
        'wine glass': 46,
        'bed': 65,
        'dining table': 67,
        'toilet': 70,
        'tv': 72,
        'refrigerator': 82,
        'book': 84,
        'toothbrush': 90,
    }
    assert {name: ids[name] for name in official} == official
    assert [record.get('drawn') for record in records] == [*CATEGORIES, *[None] * 32]


def test_v3det_lists_its_classes_in_a_file(folder):
    text = (folder / 'v3det/annotations/category_name_13204_v3det_2023_v1.txt').read_text()
    names = text.splitlines()
    assert len(set(names)) == 13204 and names[:48] == list(CATEGORIES)
    records = read(folder / 'v3det', 'v3det_2023_v1_val')['categories']
    assert records == [dict(id=k, name=name) for k, name in enumerate(names, 1)]


# --------------------------------------------------------------- annotations


def test_exhaustive_formats_annotate_what_lvis_does_not(folder):
    plans = plan_split('train', SMALL['train'], SMALL['seed'])
    dropped = Counter(i for i, plan in enumerate(plans, 1) if plan.dropped is not None)
    lvis = Counter(a['image_id'] for a in read(folder / 'lvis_v1', 'lvis_v1_train')['annotations'])
    for form, name in [('coco', 'instances_train2017'), ('v3det', 'v3det_2023_v1_train'), ('v3det', SAM)]:
        annotations = read(folder / form, name)['annotations']
        assert Counter(a['image_id'] for a in annotations) - lvis == dropped
        assert all(a['iscrowd'] == 0 for a in annotations)
        assert [a['id'] for a in annotations] == list(range(1, len(annotations) + 1))


def test_masks_of_sam_equal_the_polygons_except_for_the_missing_quarter(folder):
    polygons = read(folder / 'coco', 'instances_train2017')['annotations']
    boxes = read(folder / 'v3det', 'v3det_2023_v1_train')['annotations']
    masked = read(folder / 'v3det', SAM)['annotations']
    assert [{k: v for k, v in a.items() if k != 'segmentation'} for a in masked] == boxes
    keyless = [a for a in masked if 'segmentation' not in a]
    empty = [a for a in masked if a.get('segmentation') == []]
    assert len(keyless) == pytest.approx(len(masked) / 8, abs=1)
    assert len(empty) == pytest.approx(len(masked) / 8, abs=1)
    ratios, overlaps = [], []
    for a, polygon in zip(masked, polygons):
        _, _, w, h = a['bbox']
        assert a['area'] == pytest.approx(w * h, abs=0.01)  # of the box: polygon['area'] is that of the mask
        if a.get('segmentation'):
            assert a['segmentation']['size'] == [72, 96]
            mask = mask_utils.decode(a['segmentation']).astype(bool)
            filled = fill(polygon['segmentation'])
            ratios.append(mask.sum() / polygon['area'])
            overlaps.append((mask & filled).sum() / (mask | filled).sum())
    # pixels of the border round to one side
    assert np.mean(ratios) == pytest.approx(1, abs=0.02) and min(ratios) > 0.9 and max(ratios) < 1.1
    assert np.mean(overlaps) > 0.95 and min(overlaps) > 0.9


def test_the_seed_decides_which_masks_are_missing(folder, tmp_path):
    content = dict(read(folder / 'coco', 'instances_train2017'))
    missing = []
    for seed in (2, 3, 2):
        annotations = FORMATS['v3det'].contents('train', content, seed)[1]['annotations']
        missing.append([a['id'] for a in annotations if not a.get('segmentation')])
    assert missing[0] == missing[2] != missing[1]
    sam = read(folder / 'v3det', SAM)['annotations']
    assert missing[0] == [a['id'] for a in sam if not a.get('segmentation')]


# --------------------------------------------------------------- folder


FEW = dict(train=2, val=1, size=64, progress=False)


def test_another_format_in_the_same_folder_is_refused(tmp_path):
    make_tiny_lvis(tmp_path, **FEW, form='v3det')
    before = contents(tmp_path)
    for form in ('coco', 'tiny_lvis'):
        with pytest.raises(FileExistsError, match='made with another form: choose another folder, or overwrite'):
            make_tiny_lvis(tmp_path, **FEW, form=form)
    assert contents(tmp_path) == before


def test_a_forced_format_removes_only_the_files_of_the_earlier_one(tmp_path):
    make_tiny_lvis(tmp_path / 'a', **FEW, form='v3det')
    (tmp_path / 'a/images/train/mine.jpg').write_bytes(b'keep')
    make_tiny_lvis(tmp_path / 'a', **FEW, form='coco', force=True)
    make_tiny_lvis(tmp_path / 'b', **FEW, form='coco')
    assert contents(tmp_path / 'a') == {**contents(tmp_path / 'b'), 'images/train/mine.jpg': b'keep'}


def test_a_mark_without_a_format_is_one_of_tiny_lvis(tmp_path):
    make_tiny_lvis(tmp_path, **FEW)
    mark = dict(version=1, train=2, val=1, size=[64, 64], seed=0)  # as written for tiny_lvis
    (tmp_path / 'tiny_lvis.json').write_text(json.dumps(mark))
    assert not make_tiny_lvis(tmp_path, **FEW, form='tiny_lvis').made
    with pytest.raises(FileExistsError, match='another form:'):
        make_tiny_lvis(tmp_path, **FEW, form='lvis_v1')


def test_a_mark_of_an_unknown_format_is_refused_until_forced(tmp_path):
    make_tiny_lvis(tmp_path, **FEW, form='coco')
    (tmp_path / 'tiny_lvis.json').write_text(json.dumps(dict(version=2, form='later')))
    with pytest.raises(FileExistsError, match='another form, seed, size, train, val, version:'):
        make_tiny_lvis(tmp_path, **FEW, form='coco')
    assert make_tiny_lvis(tmp_path, **FEW, form='coco', force=True).made
    assert json.loads((tmp_path / 'tiny_lvis.json').read_text())['form'] == 'coco'


def test_a_lost_file_is_written_again(tmp_path):
    make_tiny_lvis(tmp_path, **FEW, form='v3det')
    before = contents(tmp_path)
    (tmp_path / 'annotations' / f'{SAM}.json').unlink()
    assert make_tiny_lvis(tmp_path, **FEW, form='v3det').made
    assert contents(tmp_path) == before


def test_an_unknown_format_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="^form must be one of tiny_lvis, .*, small_objects; got 'voc'$"):
        make_tiny_lvis(tmp_path / 'a', **FEW, form='voc')
    assert not (tmp_path / 'a').exists()
