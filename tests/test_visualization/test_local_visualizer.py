"""Images that a person can read: one name an object, any number of classes, any script, any kind of image."""

import logging

import cv2
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData

from apa_mmdet.visualization import LegibleVisualizer
from apa_mmdet.visualization.fonts import families_for
from apa_mmdet.visualization.images import UNREADABLE, BadImage, as_rgb, read_rgb

GRAY = np.full((120, 160, 3), 128, np.uint8)


def found(labels, scores=None, boxes=None, masks=None, **extra):
    """A sample with predictions."""
    boxes = torch.tensor(boxes or [[20.0, 40, 100, 110]] * len(labels), dtype=torch.float32)
    scores = torch.tensor(scores or [0.9] * len(labels))
    instances = InstanceData(bboxes=boxes, scores=scores, labels=torch.tensor(labels), **extra)
    if masks is not None:
        instances.masks = masks
    return DetDataSample(pred_instances=instances)


@pytest.fixture
def visualizer():
    """Made as the configs make it; notes the names that it draws."""

    class Noting(LegibleVisualizer):
        def draw_texts(self, texts, *args, **kwargs):
            self.names.append(texts)
            return super().draw_texts(texts, *args, **kwargs)

    made = Noting()
    made.names, made.dataset_meta = [], dict(classes=('date', 'fig', 'hazelnut'), palette='random')
    return made


def test_configs_name_it(visualizer):
    assert VISUALIZERS.get('mmdet.LegibleVisualizer') is LegibleVisualizer


def test_an_object_is_shown_as_its_best_class(visualizer):
    sample = found([0, 2, 1], [0.5, 0.9, 0.8], [[20, 40, 100, 110], [20, 41, 101, 110], [110, 40, 150, 80]])
    visualizer.add_datasample('', GRAY, sample)
    assert visualizer.names == ['hazelnut: 90.0', 'fig: 80.0'] and len(sample.pred_instances) == 3
    visualizer.same_object_iou, visualizer.names = None, []
    visualizer.add_datasample('', GRAY, sample)
    assert visualizer.names == ['date: 50.0', 'hazelnut: 90.0', 'fig: 80.0']


def test_objects_keep_their_colors_below_a_mask(visualizer):
    masks = torch.zeros(1, 120, 160, dtype=torch.bool)
    masks[:, 50:100, 30:90] = True
    image = GRAY.copy()
    image[50:100, 30:90] = 20, 200, 40
    visualizer.add_datasample('', image, found([2], masks=masks), draw_gt=False)
    inside = visualizer.get_image()[60:90, 40:80].reshape(-1, 3).mean(0)
    assert 0 < np.abs(inside - (20, 200, 40)).max() < 55, inside


@pytest.mark.parametrize(
    'palette', [[(0, 0, 9)], CocoDataset.METAINFO['palette'], 'coco', 'voc', 'random', None, (9, 0, 0)]
)
def test_palettes_of_any_length_color_any_number_of_classes(visualizer, palette):
    visualizer.dataset_meta = dict(classes=tuple(map(str, range(300))), palette=palette)
    visualizer.add_datasample('', GRAY, found([0, 299], boxes=[[5, 30, 60, 100], [80, 30, 150, 100]]))
    assert visualizer.names == ['0: 90.0', '299: 90.0']


def test_classes_of_several_data_sets_are_those_of_the_first(visualizer):
    visualizer.dataset_meta = [dict(classes=('a', 'b')), dict(classes=('a', 'b'), palette=[])]
    visualizer.add_datasample('', GRAY, found([1]))
    assert visualizer.names == ['b: 90.0']


# ---------------------------------------------------------------- scripts


def make_font(path, letters):
    """A font whose letters are squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(100, 0), (100, 700), (800, 700), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    names = ['.notdef', *(f'u{ord(letter):X}' for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName=path.stem, styleName='Regular'))
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A machine that has matplotlib's own fonts, and those of a folder."""
    own = [font for font in font_manager.fontManager.ttflist if font.name.startswith('DejaVu')]
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', own)
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [str(path) for path in tmp_path.iterdir()])
    families_for.cache_clear()
    yield tmp_path
    families_for.cache_clear()


def test_letters_are_drawn_in_an_installed_font_that_has_them(visualizer, fonts, recwarn):
    make_font(fonts / 'Some Han.ttf', '日期')
    make_font(fonts / 'More Han.ttf', '日期榛子')
    make_font(fonts / 'Some Hangul.ttf', '무화과')
    (fonts / 'broken.ttf').write_bytes(b'no font')
    visualizer.dataset_meta = dict(classes=('日期', '무화과', '榛子'))
    visualizer.add_datasample('', GRAY, found([1, 2], boxes=[[5, 30, 60, 100], [80, 30, 150, 100]]))
    assert visualizer.names == ['무화과: 90.0', '榛子: 90.0']
    assert visualizer._families == ['sans-serif', 'More Han', 'Some Hangul']
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]
    assert families_for(frozenset('été')) == (('sans-serif',), frozenset())


def test_without_such_a_font_classes_are_shown_by_number_and_one_line_says_what_to_do(visualizer, fonts, recwarn):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    visualizer.dataset_meta = dict(classes=('日期', 'fig'))
    sample = found([0, 1], boxes=[[5, 30, 60, 100], [80, 30, 150, 100]], label_names=['日期', 'fig'])
    for _ in range(2):
        visualizer.add_datasample('', GRAY, sample)
    MMLogger.get_current_instance().removeHandler(handler)
    assert visualizer.names[:2] == ['class 0: 90.0', 'fig: 90.0'] and sample.pred_instances.label_names == [
        '日期',
        'fig',
    ]
    (line,) = lines
    assert 'no installed font has 2 letters of the class names, e.g. 日' in line and '~/.local/share/fonts' in line
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]


# ---------------------------------------------------------------- images of any kind


def test_images_of_other_channels_and_types_are_shown(tmp_path):
    numbers = np.arange(4 * 5 * 4).reshape(4, 5, 4)
    for name, image in (('gray.png', numbers[..., 0]), ('four.tif', numbers), ('deep.tif', numbers * 800)):
        cv2.imwrite(str(tmp_path / name), image.astype(np.uint16 if 'deep' in name else np.uint8))
        shown = read_rgb(str(tmp_path / name))
        assert shown.shape == (4, 5, 3) and shown.dtype == np.uint8 and shown.std() > 5
    cv2.imwrite(str(tmp_path / 'float.tif'), (numbers[..., 0] / 100).astype(np.float32))
    assert read_rgb(str(tmp_path / 'float.tif')).shape == (4, 5, 3)
    normalized = as_rgb(np.array([[-1.0], [1.0]]))
    assert normalized[:, 0].tolist() == [[0, 0, 0], [255, 255, 255]]
    (tmp_path / 'none.jpg').write_bytes(b'\xff\xd8 no image')
    with pytest.raises(BadImage, match=f'none.jpg: {UNREADABLE}'):
        read_rgb(str(tmp_path / 'none.jpg'))
