"""MMDetection's result files are read in any order, and a bad record is named."""

import json

import numpy as np
import pytest

from apa_mmdet.evaluation.functional.json_results import read_json_results
from apa_mmdet.evaluation.functional.prediction_store import PredictionError

RLE = dict(size=[6, 5], counts='n0')  # one run of 30 pixels, none of them set


def detection(**changes):
    record = dict(image_id=7, category_id=3, bbox=[1, 2.5, 3, 4], score=0.5, segmentation=dict(RLE))
    return {key: value for key, value in dict(record, **changes).items() if value != 'absent'}


def read(path, detections):
    path.write_text(detections if isinstance(detections, str) else json.dumps(detections))
    return list(read_json_results(path, category_ids=[5, 3]))


def test_detections_are_grouped_by_image_in_any_order(tmp_path):
    detections = [
        detection(score=0.1),
        detection(image_id=-2, segmentation='absent'),
        detection(score=0.2, category_id=5),
    ]
    first, second = read(tmp_path / 'a.segm.json', detections)
    assert (first.image_id, second.image_id) == (7, -2)
    assert np.array_equal(first.boxes, [[1, 2.5, 4, 6.5]] * 2)
    assert first.scores.tolist() == [0.1, 0.2] and first.labels.tolist() == [1, 0]
    assert first.masks.size == (6, 5) and first.masks.counts == [b'n0'] * 2
    assert second.masks is None and first.mask_scores is None


def test_an_empty_list_has_no_predictions(tmp_path):
    assert read(tmp_path / 'a.bbox.json', []) == []


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('', 'a.json is not JSON, or was cut off: JSONDecodeError: Expecting value'),
        (json.dumps([detection()])[:-9], 'a.json is not JSON, or was cut off: JSONDecodeError: .* column'),
        ('[' * 100_000, 'a.json is not JSON, or was cut off: RecursionError'),
        (json.dumps(dict(detections=[])), 'a.json is not a list of detections'),
    ],
)
def test_a_file_that_is_not_a_list_in_json_is_refused(tmp_path, text, sentence):
    with pytest.raises(PredictionError, match=sentence, check=lambda error: error.code == 'not-json'):
        read(tmp_path / 'a.json', text)


def test_text_that_is_not_unicode_is_refused(tmp_path):
    (tmp_path / 'a.json').write_bytes(b'[\xff]')
    with pytest.raises(PredictionError, check=lambda error: error.code == 'not-json'):
        list(read_json_results(tmp_path / 'a.json', [1]))


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (dict(image_id='7'), "image_id is '7', not an integer of 64 bits"),
        (dict(image_id=2**70), 'image_id is 1180591620717411303424, not an integer of 64 bits'),
        (dict(image_id='absent'), 'image_id is missing, not an integer of 64 bits'),
        (dict(category_id=77), 'category_id is 77, not the id of a category of the annotations'),
        (dict(category_id=[3]), r'category_id is \[3\], not the id of a category'),
        *(
            (dict(score=score), 'score is .*, not a finite number')
            for score in ('x', None, True, float('nan'), 1e60, 10**400, [1, 2])
        ),
        *(
            (dict(bbox=box), 'bbox is .*, not 4 finite numbers')
            for box in (None, [1, 2, 3], [1, 2, float('nan'), 3], ['1', '2', '3', '4'])
        ),
        *(
            (dict(segmentation=mask), 'image 7: segmentation is .*, not a compressed RLE of a mask')
            for mask in (
                [[1, 2, 3, 4, 5, 6]],
                dict(size=[6, 5]),
                dict(RLE, counts='x'),
                dict(size=[5, 3], counts='\ud800'),  # not to be read as '?', a run of 15
                dict(RLE, size=[5, 5]),
                dict(RLE, size=['6', 5]),
                dict(RLE, size=[2**32, 1]),
            )
        ),
        (dict(segmentation='absent'), 'image 7: segmentation is of size None, in an earlier detection of the image'),
        (
            dict(segmentation=dict(size=[5, 6], counts='n0')),
            r'image 7: segmentation is of size \(5, 6\), in an earlier',
        ),
    ],
)
def test_a_bad_record_is_named(tmp_path, changes, sentence):
    sentence = rf'a.json: detections\[1\]: {sentence}'
    with pytest.raises(PredictionError, match=sentence, check=lambda error: error.code == 'bad-record'):
        read(tmp_path / 'a.json', [detection(), detection(**changes), detection()])


def test_a_record_that_is_not_an_object_is_named(tmp_path):
    with pytest.raises(PredictionError, match=r'detections\[0\]: 3 is not an object'):
        read(tmp_path / 'a.json', [3])
