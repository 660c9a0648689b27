"""The contact sheet of a data set: which images it shows, and whether annotations are where the objects are."""

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.shrink_config import SIDE, shrunk
from mmengine.config import Config

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.visualization.contact_sheet import _load, _open, browse
from apa_mmdet.visualization.grid import caption, grid
from apa_mmdet.visualization.local_visualizer import draw, make_visualizer

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the tiny data set as itself and as COCO and V3Det."""
    folder = tmp_path_factory.mktemp('browse')
    for form in ('tiny_lvis', 'coco', 'v3det'):
        make_tiny_lvis(folder / form, train=6, val=3, size=(96, 72), progress=False, form=form)
    return folder


def config(folder, form='tiny_lvis', file=TINY, root='data/tiny_lvis/'):
    return shrunk(Config.fromfile(file), root, folder / form)


def own(folder, tmp_path):
    """The images with the three class names of configs/custom_dataset."""
    content = json.loads((folder / 'coco/annotations/instances_val2017.json').read_text())
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(('date', 'fig', 'hazelnut'))]
    content['annotations'] = [dict(a, category_id=a['category_id'] % 3) for a in content['annotations']]
    (tmp_path / 'trainval.json').write_text(json.dumps(content))
    (tmp_path / 'images').symlink_to(folder / 'coco/val2017')
    cfg = Config.fromfile(ROOT / 'configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py')
    cfg.merge_from_dict({f'{split}_dataloader.dataset.data_root': str(tmp_path) for split in ('train', 'val', 'test')})
    return cfg


def names_in(path, *files):
    """Counts the annotations of each class in some images, or all."""
    content = json.loads(path.read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    images = {image['id']: Path(image.get('file_name', image.get('coco_url', ''))).name for image in content['images']}
    return Counter(
        names[a['category_id']] for a in content['annotations'] if not files or images[a['image_id']] in files
    )


def test_a_sheet_shows_all_images_of_a_small_data_set(folder, tmp_path):
    sheet = browse(config(folder), tmp_path / 'new/val.png', 'val', 16, progress=False)
    assert sheet.objects == names_in(folder / 'tiny_lvis/annotations/lvis_v1_val.json')
    assert (sheet.drawn, sheet.length, sheet.classes) == (3, 3, 48)
    assert cv2.imread(str(tmp_path / 'new/val.png')).shape == (2 * (361 + 24 + 12) + 12, 2 * (480 + 12) + 12, 3)


def test_images_are_spread_evenly_over_what_the_data_set_repeats(folder, tmp_path):
    cfg = config(folder)
    cfg.train_dataloader.dataset.oversample_thr = 0.9
    sheet = browse(cfg, tmp_path / 'train.png', images=3, progress=False)
    dataset = _open(cfg, 'train')
    assert sheet.length == len(dataset) > 6 and sheet.drawn == 3  # six images, some repeated
    shown = [dataset.dataset.get_data_info(dataset.repeat_indices[i]) for i in (0, (len(dataset) - 1) // 2, -1)]
    assert len({info['img_path'] for info in shown}) == 3
    expected = Counter(dataset.metainfo['classes'][i['bbox_label']] for info in shown for i in info['instances'])
    assert sheet.objects == expected
    assert re.match(rf'data set   train, {len(dataset)} images an epoch, 3 shown\nobjects    ', str(sheet))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_are_transformed_with_the_image(folder, split):
    """Also in the test pipeline, which loads them after resizing the image."""
    cfg = config(folder)
    steps = (cfg.train_dataloader.dataset.dataset if split == 'train' else cfg.val_dataloader.dataset).pipeline
    at = next(i for i, step in enumerate(steps) if step.type in ('RandomFlip', 'Resize'))
    steps[at : at + 1] = [dict(type='Resize', scale=(192, 144)), dict(type='RandomFlip', prob=1.0)]
    dataset = _open(cfg, split)
    image, sample = _load(dataset, 0, split)
    plain = cv2.imread(sample.img_path)[..., ::-1]
    expected = cv2.resize(plain, (192, 144))[:, ::-1]
    assert np.abs(image.astype(int) - expected).mean() < 1  # RGB, flipped, twice as large
    info = getattr(dataset, 'dataset', dataset).get_data_info(0)
    boxes = torch.tensor([i['bbox'] for i in info['instances']]) * 2
    boxes[:, [0, 2]] = 192 - boxes[:, [2, 0]]
    assert torch.allclose(sample.gt_instances.bboxes.tensor, boxes)
    for mask, box in zip(sample.gt_instances.masks.to_ndarray(), boxes):
        y, x = mask.nonzero()
        assert torch.allclose(torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float(), box, atol=4)


def test_masks_and_boxes_are_drawn_where_the_objects_are(folder):
    dataset = _open(config(folder), 'val')
    image, sample = _load(dataset, 0, 'val')
    picture = draw(make_visualizer(dataset.metainfo['classes']), image, sample, draw_pred=False)
    plain = cv2.cvtColor(cv2.resize(image, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC), cv2.COLOR_RGB2BGR)
    changed = np.abs(picture.astype(int) - plain).max(2) > 40
    factor = picture.shape[1] / image.shape[1]
    for mask in sample.gt_instances.masks.to_ndarray():
        large = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        edge = large & ~cv2.erode(large.astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert changed[edge].mean() > 0.4 > changed.mean()
    corner = (sample.gt_instances.bboxes.tensor[:, :2] * factor).int().clamp(min=1)
    assert all(changed[y : y + 8, x : x + 8].any() for x, y in corner.tolist())
    assert sample.gt_instances.bboxes.tensor.max() <= SIDE  # the sample is left as it was


@pytest.mark.parametrize(
    'file, annotations',
    [
        ('v3det/faster_rcnn_se_r50_apa_v3det.py', 'v3det_2023_v1_train'),
        ('v3det/mask_rcnn_se_r50_apa_v3det.py', 'v3det_2023_v1_train_sam'),
    ],
)
def test_v3det_is_drawn_with_and_without_masks(folder, tmp_path, file, annotations):
    cfg = config(folder, 'v3det', ROOT / 'configs' / file, 'data/V3Det/')
    sheet = browse(cfg, tmp_path / 'sheet.png', images=2, progress=False)
    counts = names_in(folder / f'v3det/annotations/{annotations}.json')
    assert set() < set(sheet.objects) <= set(counts) and sheet.classes == 13204
    assert cv2.imread(str(tmp_path / 'sheet.png')).std() > 20


def test_a_custom_dataset_is_drawn(folder, tmp_path):
    sheet = browse(own(folder, tmp_path), tmp_path / 'own.png', progress=False)
    assert sheet.objects == names_in(tmp_path / 'trainval.json') and sheet.classes == 3


def test_a_grid_holds_images_of_different_sizes():
    pictures = [np.full((10, 30, 3), i, np.uint8) for i in range(3)] + [np.full((20, 10, 3), 3, np.uint8)]
    sheet = grid(pictures, columns=3, gap=2)
    assert sheet.shape == (2 * 22 + 2, 3 * 32 + 2, 3)
    assert (sheet[2:12, 34:64] == 1).all() and (sheet[24:44, 2:12] == 3).all() and (sheet[24:, 12:] == 255).all()
    named = caption(np.zeros((10, 100, 3), np.uint8), 'a very long name of a picture.jpg')
    assert named.shape == (34, 100, 3) and (named[10:] < 255).any() and (named[10:, -2:] == 255).all()


def tool(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['browse_dataset.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/browse_dataset.py'), run_name='__main__')
    return capsys.readouterr().out, ended.value.code


def test_the_tool_writes_the_sheet(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/tiny_lvis').symlink_to(folder / 'tiny_lvis')
    said, code = tool(monkeypatch, capsys, TINY, '--split', 'test', '--images', 2)
    picture = Path('work_dirs/browse/mask_rcnn_se_r18_apa_test.png')
    assert code is None and said.endswith(f'sheet      {picture}\n') and picture.is_file()


def break_json(root):
    (root / 'annotations/lvis_v1_val.json').write_text('{')


def no_images(root):
    (root / 'annotations/lvis_v1_val.json').write_text('{"images": [], "annotations": [], "categories": []}')


def break_image(root):
    (root / 'val2017/000000000001.jpg').write_bytes(b'no image')


EMPTY = [
    '--split',
    'val',
    '--cfg-options',
    'val_dataloader.dataset.indices=0',
    'val_dataloader.dataset.serialize_data=False',
]
CHECK = '; to validate the data: python tools/check_dataset.py CONFIG'


@pytest.mark.parametrize(
    'options, breaks, line',
    [
        ([], None, r'missing: .*/lvis_v1_train.json; make the data set with: python tools/make_tiny_lvis.py'),
        (['--split', 'val'], break_json, f'the data set for val cannot be read: JSONDecodeError: .*{CHECK}'),
        (['--split', 'val'], no_images, f'the data set for val cannot be read: ValidationError: .*{CHECK}'),
        (EMPTY, bool, f'the data set for val has no image, or its filter_cfg removes all{CHECK}'),
        (['--split', 'val'], break_image, f'image 0 of val cannot be loaded: .*{CHECK}'),
        (['--cfg-options', 'train_dataloader=None'], None, 'the config has no data set for train'),
    ],
    ids=['missing', 'broken JSON', 'no images', 'none left', 'broken image', 'no loader'],
)
def test_the_tool_ends_with_one_line_for_broken_data(tmp_path, monkeypatch, capsys, options, breaks, line):
    monkeypatch.chdir(tmp_path)
    if breaks:
        make_tiny_lvis('data/tiny_lvis', train=1, val=1, size=(96, 72), progress=False)
        breaks(Path('data/tiny_lvis'))
    said, code = tool(monkeypatch, capsys, TINY, *options)
    assert re.fullmatch(f'browse_dataset: {line}', code) and 'sheet' not in said
