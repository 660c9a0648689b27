import cv2
import pytest

from apa_mmdet.utils.errors import CodedError
from apa_mmdet.visualization.class_precisions import draw_class_precisions

HEADER = 'class,group,images,instances,AP\n'


def test_classes_with_an_ap_are_drawn(tmp_path):
    rows = ''.join(f'c{i},{"rcf"[i // 10]},{i * i},{3 * i},{i / 40}\n' for i in range(30))
    (tmp_path / 'classes_bbox.csv').write_text(f'{HEADER}{rows}"a, b",r,3,4,\n')
    (tmp_path / 'classes_segm.csv').write_text(f'{HEADER}c,r,1,1,0.5\n')
    picture = cv2.imread(str(draw_class_precisions(tmp_path, tmp_path / 'classes.png')))
    height, width, _ = picture.shape
    assert width > 2 * height and picture[:, : width // 2].std() > 10 and picture[:, width // 2 :].std() > 10


def test_without_a_table_nothing_is_drawn(tmp_path):
    assert draw_class_precisions(tmp_path, tmp_path / 'out.png') is None
    (tmp_path / 'classes_bbox.csv').write_text(f'{HEADER}c,r,1,1,\n')
    assert draw_class_precisions(tmp_path, tmp_path / 'out.png') is None and not (tmp_path / 'out.png').exists()


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / 'classes_bbox.csv').write_text(f'{HEADER}c,r,one,1,0.5\n')
    with pytest.raises(CodedError, match='classes_bbox.csv cannot be read: ValueError: ') as error:
        draw_class_precisions(tmp_path, tmp_path / 'out.png')
    assert error.value.code == 'unreadable-table'
