"""Images that cannot be read: named, or skipped and counted."""

import cv2
import numpy as np
import pytest
from helpers.annotations import coco_dataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.engine.runner.unreadable_images import UnreadableImage, count_skipped_images

BROKEN = {
    'ten bytes': lambda whole: whole[:10],
    'half': lambda whole: whole[: len(whole) // 2],
    'no byte': lambda whole: b'',
    'text': lambda whole: b'<html>',
}


def loader_of(
    folder,
    workers=0,
    ignore_empty=False,
    test_mode=False,
    wrap=lambda dataset: dataset,
    broken='ten bytes',
    backend='cv2',
):
    """A data loader of two images, the first of which is broken."""
    dataset = coco_dataset(folder).train_dataloader.dataset
    cv2.imwrite(str(folder / '2.png'), np.full((40, 50, 3), 7, np.uint8))
    (folder / '1.png').write_bytes(BROKEN[broken]((folder / '1.png').read_bytes()))
    dataset.pipeline = [
        dict(type='LoadImageFromFile', ignore_empty=ignore_empty, imdecode_backend=backend),
        dict(type='PackDetInputs'),
    ]
    dataset.test_mode = test_mode
    sampler = dict(type='DefaultSampler', shuffle=False)
    return SafeRunner.build_dataloader(
        dict(dataset=wrap(dataset), sampler=sampler, batch_size=1, num_workers=workers, persistent_workers=False)
    )


@pytest.fixture(autouse=True)
def scope():

    init_default_scope('mmdet')


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', lines.append)
    return lines


@pytest.mark.parametrize(
    'broken, ignore_empty, test_mode, backend',
    [
        ('ten bytes', False, False, 'cv2'),
        ('no byte', False, False, 'cv2'),
        ('text', False, False, 'cv2'),
        ('no byte', True, True, 'cv2'),  # a test leaves no image out
        ('half', False, False, 'pillow'),  # of which Pillow raises an OSError without a path
        ('text', False, False, 'pillow'),
    ],
)
def test_an_unreadable_image_is_named_in_one_line(tmp_path, broken, ignore_empty, test_mode, backend):
    loader = loader_of(tmp_path / 'd', 0, ignore_empty, test_mode, broken=broken, backend=backend)
    with pytest.raises(UnreadableImage) as error:
        list(loader)
    line = str(error.value)
    assert line.startswith(f'image {tmp_path}/d/1.png cannot be read (') and '\n' not in line
    assert line.endswith(
        '; tools/check_dataset.py finds all; ignore_empty=True in LoadImageFromFile skips them in training'
    )
    assert error.value.code == 'unreadable-image'


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'wrap',
    [
        lambda dataset: dataset,
        lambda dataset: dict(type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=[dataset])),
    ],
)
def test_skipped_images_are_replaced_counted_and_logged_once(tmp_path, warnings, workers, wrap):
    loader = loader_of(tmp_path / 'd', workers, ignore_empty=True, wrap=wrap)
    images = [batch['inputs'][0] for _ in range(2) for batch in loader]
    assert len(images) == 4 and all((image == 7).all() for image in images)
    assert count_skipped_images(loader.dataset) >= 2  # each time, and again if it is drawn for itself
    assert workers or [line.partition(' is skipped: ')[0] for line in warnings] == [f'image {tmp_path}/d/1.png']


def test_a_missing_image_keeps_its_error_unless_it_is_skipped(tmp_path, warnings):
    for ignore_empty in (False, True):
        loader = loader_of(tmp_path / str(ignore_empty), ignore_empty=ignore_empty)
        (tmp_path / str(ignore_empty) / '1.png').unlink()
        if ignore_empty:
            assert len(list(loader)) == 2 and 'FileNotFoundError' in warnings[0]
        else:
            with pytest.raises(FileNotFoundError, match=r'1\.png'):
                list(loader)
