"""Breaks annotation files, and lists the findings about them."""

import json

import cv2
import numpy as np
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.datasets.validation.validate_config import SPLITS, validate_config

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
TRAIN, VAL = 'annotations/lvis_v1_train.json', 'annotations/lvis_v1_val.json'


def edit(path, change):
    """Apply ``change`` to the content of an annotation file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first(kind, **values):
    """A change: the first record of a list gets other values; None removes the field."""

    def change(content):
        content[kind][0].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del content[kind][0][key]

    return change


def repeat_last(kind):
    """A change: the last record of a list occurs twice."""
    return lambda content: content[kind].append(dict(content[kind][-1]))


def findings_of(cfg, *splits, images=False, **kwargs):
    """The findings about a config."""
    return validate_config(cfg, splits or SPLITS, images, progress=False, **kwargs).findings


def codes(findings, severity=None):
    """Code and ids of the findings, of one severity or of all."""
    return [(f.code, f.ids) for f in findings if severity in (None, f.severity)]


def coco_dataset(folder, names=('date', 'fig'), segmentation=True):
    """A config for a new data set in COCO's format: two images, an instance of each class."""
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
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    )
    return Config(dict(train_dataloader=dict(dataset=dataset), model=dict(bbox_head=dict(num_classes=2))))


def coco_validation_set(folder, metric='bbox', **evaluator):
    """The same, as a validation set with an evaluator that reads the file."""
    cfg = coco_dataset(folder)
    cfg.val_dataloader = cfg.pop('train_dataloader')
    cfg.val_evaluator = dict(dict(type='CocoMetric', ann_file=str(folder / 'a.json'), metric=metric), **evaluator)
    return cfg
