import pickle

import pytest
import torch

from apa_mmdet.evaluation.functional.dumped_results import read_dumped_results
from apa_mmdet.evaluation.functional.prediction_store import PredictionError

FOUND = dict(bboxes=torch.rand(2, 4), scores=torch.rand(2), labels=torch.tensor([0, 3]))


class Call:
    """What its pickle calls."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def written(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_tensors_masks_and_plain_data_are_read(tmp_path):
    found = dict(FOUND, masks=[dict(size=[4, 5], counts=b'abc'), dict(size=[4, 5], counts='abc')])
    samples = [dict(img_id=7, ori_shape=(4, 5), scale_factor=(0.5, 0.5), pred_instances=found)]
    (read,) = read_dumped_results(written(tmp_path / 'a.pkl', samples))
    assert {key: read[key] for key in ('img_id', 'ori_shape', 'scale_factor')} == dict(
        img_id=7, ori_shape=(4, 5), scale_factor=(0.5, 0.5)
    )
    assert all(torch.equal(read['pred_instances'][key], FOUND[key]) for key in FOUND)
    assert read['pred_instances']['masks'] == found['masks']


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    harmful = Call(open, str(tmp_path / 'made'), 'w')
    for content in (harmful, [dict(img_id=harmful)]):
        with pytest.raises(PredictionError, match=r'was not loaded \(runs-code\)', check=_code):
            read_dumped_results(written(tmp_path / 'a.pkl', content))
    assert not (tmp_path / 'made').exists()


def test_a_storage_that_would_run_code_is_not_loaded(tmp_path):
    """torch's own function reads the bytes of a storage by an unpickler without limits."""
    harmful = pickle.dumps(Call(open, str(tmp_path / 'made'), 'w'), 2)
    with pytest.raises(PredictionError, check=_code):
        read_dumped_results(written(tmp_path / 'a.pkl', [Call(torch.storage._load_from_bytes, harmful)]))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (dict(a=1), 'entry 0 has no img_id with pred_instances'),
        ([dict(img_id=1)], 'entry 0 has no img_id with pred_instances'),
        ([dict(img_id=1, pred_instances=dict(bboxes=1, labels=2))], 'image 1 has no scores'),
    ],
)
def test_other_pickles_are_refused(content, sentence, tmp_path):
    with pytest.raises(PredictionError, match=sentence, check=_code):
        read_dumped_results(written(tmp_path / 'a.pkl', content))


def test_damaged_files_are_refused(tmp_path):
    path = written(tmp_path / 'a.pkl', [dict(img_id=7, pred_instances=FOUND)])
    whole = path.read_bytes()
    for content in (b'', b'no pickle', whole[:-9], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(PredictionError, check=_code):
            read_dumped_results(path)


def _code(error):
    return error.code == 'not-predictions' and '\n' not in str(error)
