"""Predictions are read back as written, by one process or several, and damaged files are refused."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from helpers.disk import files_no_larger_than
from helpers.paths import ROOT
from helpers.processes import in_two_processes
from mmengine.logging import MMLogger

from apa_mmdet.evaluation.functional import gather_predictions
from apa_mmdet.evaluation.functional.gather_predictions import gather_files
from apa_mmdet.evaluation.functional.prediction_store import (
    HEADER,
    Masks,
    Prediction,
    PredictionError,
    PredictionFiles,
    PredictionWriter,
    find_predictions,
    path_of,
    read_predictions,
)


def test_the_docs_list_every_code():
    sources = [path.read_text() for path in (ROOT / 'apa_mmdet').rglob('*.py')]
    used = {code for source in sources for code in re.findall(r"PredictionError(?:\.of)?\(\s*'([a-z-]+)'", source)}
    table = (ROOT / 'docs/fault_tolerance.md').read_text().split('`PredictionError`')[1].split('`EvaluationError`')[0]
    assert used == set(re.findall(r'^\| `([a-z-]+)` \|', table, re.M)) and len(used) > 10


def draw(image_id, count=3, masks=True, mask_scores=False):
    rng = np.random.default_rng(image_id)
    boxes, scores = rng.random((count, 4), np.float32), rng.random(count, np.float32)
    return Prediction(
        image_id,
        boxes,
        scores,
        rng.integers(0, 9, count),
        scores / 2 if mask_scores else None,
        Masks((5, 7), [rng.bytes(rng.integers(1, 9)) for _ in range(count)]) if masks else None,
    )


def refused(code, sentence):
    return pytest.raises(PredictionError, match=sentence, check=lambda error: error.code == code)


def opened(folder, predictions, rank=0, world_size=1, token=b'one test of all.'):
    writer = PredictionWriter(folder, rank, world_size, token)
    for prediction in predictions:
        writer.write(prediction)
    return writer


def write(*args):
    writer = opened(*args)
    writer.close()
    return writer


def same(read, written, files):
    mask_scores = written.scores if written.mask_scores is None else written.mask_scores
    for a, b in zip(read[:5], (*written[:4], mask_scores), strict=True):
        assert np.array_equal(a, b)
    assert (read.masks is None) == (written.masks is None)
    if written.masks:
        with files.open_masks() as read_mask:
            counts = [read_mask(read.file, *place) for place in zip(read.masks.offsets, read.masks.lengths)]
        assert (read.masks.size, counts) == (written.masks.size, list(written.masks.counts))
    return True


def test_predictions_are_read_back_as_written(tmp_path):
    written = [draw(7), draw(2**40, 0), draw(3, 2, masks=False), draw(4, mask_scores=True)]
    write(tmp_path, written)
    files = find_predictions(tmp_path)
    for _ in range(2):
        assert all(same(*pair, files) for pair in zip(files, written, strict=True))


def test_ranks_alternate_and_an_image_counts_once(tmp_path):
    write(tmp_path, [draw(1), draw(3), draw(5)], 0, 2)
    write(tmp_path, [draw(2), draw(4), draw(1)], 1, 2)  # DefaultSampler fills up with the first image
    assert [p.image_id for p in find_predictions(tmp_path)] == [1, 2, 3, 4, 5]
    paths = find_predictions(tmp_path).paths
    assert [p.image_id for p in PredictionFiles(paths, 4)] == [1, 2, 3, 4]
    with refused('missing-images', 'has predictions of 6 of the 7 tested images'):
        list(PredictionFiles(paths, 7))


@pytest.mark.parametrize('lost', [1, 20, 100])
def test_complete_records_of_a_truncated_file_are_used(tmp_path, lost, caplog):
    MMLogger.get_current_instance().addHandler(caplog.handler)
    path = write(tmp_path, [draw(i, 4) for i in range(5)]).path
    path.write_bytes(path.read_bytes()[:-lost])
    assert [p.image_id for p in read_predictions(path)] == [0, 1, 2, 3]
    assert 'the 4 complete records are used' in caplog.text


def test_every_flipped_byte_is_detected(tmp_path):
    path = write(tmp_path, [draw(1), draw(2)]).path
    content = path.read_bytes()
    for at in range(HEADER.size, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        try:
            assert len(list(read_predictions(path))) < 2, at  # a length beyond the end looks like a cut
        except PredictionError as error:
            assert error.code == 'damaged-file' and str(path) in str(error)


@pytest.mark.parametrize(
    'damage, sentence',
    [
        (lambda record: b'X' + record[1:], ', does not start with the marker of a record'),
        (lambda record: record[:-1] + b'X', ', has a wrong checksum'),
    ],
)
def test_a_damaged_record_is_named_by_its_number_and_place(tmp_path, damage, sentence):
    path = write(tmp_path, [draw(1), draw(2)]).path
    content, start = path.read_bytes(), HEADER.size
    path.write_bytes(content[:start] + damage(content[start:]))
    with refused('damaged-file', f'rank0.predictions is damaged: record [12], at byte [0-9]+{sentence}$'):
        list(read_predictions(path))


def test_files_of_another_kind_or_another_test_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no predictions: rank0.predictions is missing'):
        find_predictions(tmp_path)
    path_of(tmp_path, 0).write_bytes(b'\x80\x04cos\nsystem\n')
    with refused('not-predictions', 'is not a file of predictions'):
        find_predictions(tmp_path)
    write(tmp_path, [draw(1)], 0, 2)
    with pytest.raises(FileNotFoundError, match='rank1.predictions is missing; 2 processes .* copy it from the folder'):
        find_predictions(tmp_path)
    for other in ((1, 3), (1, 2, b'a second test...')):
        write(tmp_path, [draw(1)], *other)
        with refused('other-test', 'rank1.predictions belongs to another test than .*rank0'):
            find_predictions(tmp_path)


def test_a_full_disk_is_reported_with_the_file(tmp_path):
    path_of(tmp_path, 0).symlink_to('/dev/full')
    with pytest.raises(OSError, match='No space left on device, while predictions were written: .*rank0.predictions'):
        write(tmp_path, [draw(1)])


def test_a_new_test_removes_the_files_of_an_earlier_one_with_more_processes(tmp_path):
    for rank in range(3):
        write(tmp_path, [draw(rank)], rank, 3)
    write(tmp_path, [draw(9)])
    assert [path.name for path in tmp_path.iterdir()] == ['rank0.predictions']


def test_an_open_file_is_locked(tmp_path):
    writer = PredictionWriter(tmp_path)
    writer.write(draw(1))
    with refused('file-in-use', 'rank0.predictions is in use by another test or another metric: .* own outfile_prefix'):
        PredictionWriter(tmp_path)
    writer.close()
    assert all(
        same(*pair, find_predictions(tmp_path)) for pair in zip(find_predictions(tmp_path), [draw(1)], strict=True)
    )
    PredictionWriter(tmp_path).close()
    assert not list(find_predictions(tmp_path))


def test_a_file_replaced_by_another_test_is_refused(tmp_path):
    """As on a file system without locks."""
    writer = PredictionWriter(tmp_path)
    writer.path.unlink()
    write(tmp_path, [])  # as long as the first
    with refused('other-test', 'another test has written to .*rank0.predictions'):
        gather_files(writer)


def test_an_image_is_written_once(tmp_path):
    writer = PredictionWriter(tmp_path)
    writer.write(draw(1))
    with refused('duplicate-image', 'image 1 was tested twice'):
        writer.write(draw(1))


def test_an_image_id_is_an_integer(tmp_path):
    with refused('bad-image-id', "image 'a': its id is not an integer of 64 bits"):
        PredictionWriter(tmp_path).write(draw(1)._replace(image_id='a'))


def test_predictions_do_not_hold_the_masks_of_their_file(tmp_path):
    masks = Masks((9, 9), [b'x' * 10000] * 10)
    size = write(tmp_path, [draw(i, 10)._replace(masks=masks) for i in range(100)]).path.stat().st_size
    tracemalloc.start()
    kept = [(p.boxes, p.scores, p.labels) for p in find_predictions(tmp_path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 100 and peak < size / 10


def gather_in_process(rank, folder, shared):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    gather_predictions.CHUNK_BYTES = 1000  # so that there are several
    writer = opened(folder / ('all' if shared else str(rank)), [draw(i, 50) for i in range(rank, 6, 2)], rank, 2)
    (folder / f'paths{rank}').write_text('\n'.join(map(str, gather_files(writer))))


@pytest.mark.parametrize('shared', [True, False])
def test_rank_0_has_the_files_of_all_ranks(tmp_path, shared):
    in_two_processes(gather_in_process, tmp_path, shared)
    assert (tmp_path / 'paths1').read_text() == ''
    files = find_predictions(tmp_path / ('all' if shared else '0'))
    assert (tmp_path / 'paths0').read_text().splitlines() == [str(path) for path in files.paths]
    assert all(same(*pair, files) for pair in zip(files, [draw(i, 50) for i in range(6)], strict=True))


def gather_with_a_full_disk(rank, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    gather_predictions.CHUNK_BYTES = 1000
    writer = opened(folder / str(rank), [draw(i, 50) for i in ((0,), range(1, 6))[rank]], rank, 2)
    writer.flush()
    try:
        with files_no_larger_than(writer.path.stat().st_size):  # which is large enough on rank 1
            outcome = gather_files(writer)
    except OSError as error:
        outcome = error
    (folder / f'outcome{rank}').write_text(str(outcome))


def test_a_full_disk_while_receiving_does_not_block_the_senders(tmp_path):
    in_two_processes(gather_with_a_full_disk, tmp_path)
    assert (tmp_path / 'outcome1').read_text() == '[]'
    error = (tmp_path / 'outcome0').read_text()
    assert 'File too large, ' in error and 'while the predictions of process 1 were received' in error
    assert 'rank1.predictions' in error
    assert [path.name for path in (tmp_path / '0').iterdir()] == ['rank0.predictions']
