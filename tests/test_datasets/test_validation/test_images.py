"""Image files that are missing, unreadable, or not as annotated."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.annotations import VAL, coco_dataset, codes, edit, findings_of, first
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from apa_mmdet.datasets.validation.findings import Findings
from apa_mmdet.datasets.validation.images import check_images


def truncate(path):
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
    'harm, code, detail',
    [
        (Path.unlink, 'missing-image', 'data_prefix; make the data set with: python tools/make_tiny_lvis.py'),
        (truncate, 'unreadable-image', '(image file is truncated ('),
        (lambda path: path.write_bytes(b''), 'unreadable-image', '(the file is empty)'),
        (lambda path: path.write_text('<html>'), 'unreadable-image', '(not an image that OpenCV reads)'),
        (enlarge, 'image-size-mismatch', '(81x64, annotated 80x64)'),
        (turn, 'image-size-mismatch', '(64x80, annotated 80x64)'),
    ],
)
@pytest.mark.parametrize('workers', [0, 1])
def test_a_faulty_image_is_named_with_its_fault(broken, harm, code, detail, workers):
    folder, cfg = broken
    image = folder / 'val2017/000000000002.jpg'
    harm(image)
    (finding,) = findings_of(cfg, 'val', 'test', images=True, workers=workers)
    assert (finding.severity, finding.code, finding.dataset) == ('error', code, 'val, test')
    assert finding.ids == (str(image),) and f'1 of 4, e.g. {image}' in finding.message and detail in finding.message


def test_without_decoding_missing_images_are_still_found(broken):
    folder, cfg = broken
    (folder / 'val2017/000000000002.jpg').unlink()
    truncate(folder / 'val2017/000000000001.jpg')
    assert codes(findings_of(cfg, 'val')) == [('missing-image', (str(folder / 'val2017/000000000002.jpg'),))]


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.bmp', '.tiff'])
def test_every_truncated_image_is_found(tmp_path, suffix):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / f'whole{suffix}'), rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    data, images = (tmp_path / f'whole{suffix}').read_bytes(), []
    for end in np.linspace(0, len(data) - 1, 12).astype(int):
        images.append((str(tmp_path / f'{end}{suffix}'), 30, 40))
        Path(images[-1][0]).write_bytes(data[:end])
    findings = Findings('train')
    check_images([(str(tmp_path / f'whole{suffix}'), 30, 40), *images], LoadImageFromFile(), findings, progress=False)
    assert codes(findings) == [('unreadable-image', tuple(path for path, *_ in images))]


@pytest.mark.parametrize(
    'url, code',
    [
        (7, 'invalid-image-path'),
        (None, 'unknown-image-path'),
        ('http://elsewhere/1.jpg', 'unreadable-image'),
        ('http://images.cocodataset.org/a\0b.jpg', 'missing-image'),
    ],
)
def test_a_path_that_leads_to_no_image(broken, url, code):
    folder, cfg = broken
    edit(folder / VAL, first('images', coco_url=url))
    (finding,) = (f for f in findings_of(cfg, 'val') if f.severity == 'error')
    assert finding.code == code and len(finding.ids) == (code != 'unknown-image-path')


@pytest.mark.parametrize('path', ['/../../../../../../etc/passwd', '//etc/passwd'])
def test_a_path_out_of_the_folder_is_a_warning(broken, path):
    folder, cfg = broken
    edit(folder / VAL, first('images', coco_url=f'http://images.cocodataset.org{path}'))
    finding, *_ = findings_of(cfg, 'val')
    assert (finding.severity, finding.code) == ('warning', 'image-outside-folder')
    assert finding.ids[0].endswith('/etc/passwd')


def test_an_unprintable_path_is_printed(tmp_path):
    cfg = coco_dataset(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('images', file_name='\ud800\n.png'))
    (finding,) = findings_of(cfg)
    assert finding.code == 'missing-image' and "\\ud800\\n.png'" in finding.message and str(finding).encode()
