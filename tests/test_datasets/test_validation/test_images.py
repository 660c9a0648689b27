"""Image files that are missing, unreadable, or not as annotated."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.annotations import VAL, coco_dataset, codes, edit, findings_of, first
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from apa_mmdet.datasets.validation.images import check_images
from apa_mmdet.utils.findings import Findings


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def enlarge(path):
    cv2.imwrite(str(path), np.zeros((64, 81, 3), np.uint8))


def turn(path, orientation=6):
    """By the orientation tag of photos, which OpenCV obeys."""
    image = Image.open(path)
    image.load()
    image.getexif()[274] = orientation
    image.save(path, 'jpeg', exif=image.getexif())


@pytest.mark.parametrize(
    'harm, code, detail',
    [
        (Path.unlink, 'missing-image', 'data_prefix; make the data set with: python tools/make_tiny_lvis.py'),
        (truncate, 'unreadable-image', '(image file is truncated ('),
        (lambda path: path.write_bytes(b''), 'unreadable-image', '(the file is empty)'),
        (lambda path: path.write_text('<html>'), 'unreadable-image', '(not an image that OpenCV reads)'),
        (enlarge, 'image-size-mismatch', '(81x64, annotated 80x64)'),
        (turn, 'orientation-applied', '(64x80, annotated 80x64)'),
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


@pytest.mark.parametrize(
    'orientation, size, color_type, code, severity',
    [
        (6, (40, 50), 'color', 'orientation-applied', 'error'),  # annotated as stored
        (6, (50, 40), 'color', None, None),
        (8, (50, 40), 'color_ignore_orientation', 'orientation-ignored', 'error'),
        (8, (40, 50), 'color_ignore_orientation', None, None),
        (3, (40, 50), 'color', 'orientation-tag', 'warning'),
        (3, (40, 50), 'color_ignore_orientation', None, None),
        (1, (40, 50), 'color', None, None),
        (6, (40, 51), 'color', 'image-size-mismatch', 'error'),
    ],
)
def test_the_orientation_tag_of_a_photo(tmp_path, orientation, size, color_type, code, severity):
    path, findings = tmp_path / 'a.jpg', Findings('train')
    cv2.imwrite(str(path), np.zeros((40, 50, 3), np.uint8))
    turn(path, orientation)
    check_images([(str(path), *size)], LoadImageFromFile(color_type=color_type), findings, progress=False)
    assert [(f.severity, f.code) for f in findings] == [(severity, code)] * bool(code)


def test_a_square_photo_that_is_turned(tmp_path):
    findings = Findings('train')
    cv2.imwrite(str(tmp_path / 'a.jpg'), np.zeros((40, 40, 3), np.uint8))
    turn(tmp_path / 'a.jpg')
    check_images([(str(tmp_path / 'a.jpg'), 40, 40)], LoadImageFromFile(), findings, progress=False)
    assert codes(findings) == [('orientation-tag', (str(tmp_path / 'a.jpg'),))]


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
@pytest.mark.parametrize('shape', [(30, 40), (30, 40, 3)])
@pytest.mark.parametrize(
    'highest, color_type, code, detail',
    [
        (4080, 'color', 'nearly-black-images', 'leaves values up to 1'),  # 15 or 16, as OpenCV rounds
        (65280, 'color', 'high-bit-depth', '(values up to 65280 become 25'),
        (4080, 'unchanged', None, ''),
        (200, None, None, ''),  # 8 bits
    ],
)
def test_images_of_more_than_8_bits(tmp_path, suffix, shape, highest, color_type, code, detail):
    image = np.linspace(0, highest, np.prod(shape)).reshape(shape)
    deep, flat, findings = str(tmp_path / f'deep{suffix}'), str(tmp_path / f'flat{suffix}'), Findings('train')
    cv2.imwrite(deep, image.astype(np.uint16 if color_type else np.uint8))
    cv2.imwrite(flat, np.full(shape, 255, np.uint8))
    images, loader = [(deep, 30, 40), (flat, 30, 40)], LoadImageFromFile(color_type=color_type or 'color')
    check_images(images, loader, findings, progress=False)
    assert codes(findings) == [(code, (deep,))] * bool(code)
    assert all(detail in finding.message for finding in findings)


def test_an_image_that_training_would_skip_is_an_error(tmp_path):
    cfg = coco_dataset(tmp_path / 'd')
    cfg.train_dataloader.dataset.pipeline[0].ignore_empty = True
    (tmp_path / 'd/1.png').write_bytes(b'')
    assert codes(findings_of(cfg, images=True)) == [('unreadable-image', (str(tmp_path / 'd/1.png'),))]


def test_why_a_loader_of_ones_own_refuses_an_image_is_passed_on(tmp_path):
    class Loader(LoadImageFromFile):
        def transform(self, results):
            raise ValueError(f'{results["img_path"]} is of an unknown sensor')

    path, findings = str(tmp_path / 'a.png'), Findings('train')
    cv2.imwrite(path, np.zeros((4, 5, 3), np.uint8))
    check_images([(path, 4, 5)], Loader(), findings, progress=False)
    assert codes(findings) == [('unreadable-image', (path,))] and 'is of an unknown sensor' in findings[0].message


@pytest.mark.parametrize('there', ['Caf\u00e9.JPG', 'cafe\u0301.jpg', 'caf\u00e9.jpeg', None])
def test_a_missing_image_that_is_there_under_a_similar_name(tmp_path, there):
    findings = Findings('train')
    if there:
        (tmp_path / there).touch()
    check_images([(str(tmp_path / 'caf\u00e9.jpg'), 30, 40)], LoadImageFromFile(), findings, False, progress=False)
    (finding,) = findings
    assert finding.code == 'missing-image' and (f'.jpg (there is {there!a})' in finding.message) == bool(there)


@pytest.mark.parametrize('images', [None, False])
def test_paths_with_the_separators_of_windows(tmp_path, images):
    cfg = coco_dataset(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('images', file_name='sub\\1.png'))
    wrong = str(tmp_path / 'd/sub\\1.png')
    assert codes(findings_of(cfg, images=images)) == [('backslash-path', (wrong,))]
    (tmp_path / 'd/1.png').rename(wrong)  # a file of that name
    assert findings_of(cfg, images=images) == []


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
