"""A valid, small data set, drawn once, and a copy of it for each test to break."""

import copy
import json
import shutil

import pytest
from helpers.annotations import TINY, TRAIN, VAL
from mmengine.config import Config

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.datasets.validation.validate_config import SPLITS


@pytest.fixture(scope='session')
def valid(tmp_path_factory):
    """Folder of a data set in which every class occurs, and its config."""
    folder = tmp_path_factory.mktemp('valid') / 'data/tiny_lvis'
    make_tiny_lvis(folder, train=40, val=4, size=(80, 64), progress=False)
    return folder, Config.fromfile(TINY)


@pytest.fixture
def broken(valid, tmp_path):
    """A copy of the data set, to be broken, and a config for it."""
    folder, cfg = tmp_path / 'data/tiny_lvis', copy.deepcopy(valid[1])
    shutil.copytree(valid[0], folder)
    for split in SPLITS:
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.get('dataset', dataset).data_root = str(folder)
    for split in SPLITS[1:]:
        cfg[f'{split}_evaluator'].ann_file = str(folder / VAL)
    cfg.model.roi_head.bbox_head.loss_cls.class_frequency = str(folder / TRAIN)
    return folder, cfg


@pytest.fixture
def train(valid):
    """The training annotations, to be changed."""
    return json.loads((valid[0] / TRAIN).read_text())


@pytest.fixture
def val(valid):
    """The validation annotations, to be changed."""
    return json.loads((valid[0] / VAL).read_text())
