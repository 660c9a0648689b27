import numpy as np
from pycocotools import mask as coco_mask

from apa_mmdet.structures.rle import is_rle, run_lengths


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.01, 0.1, 0.5, 0.99, 1):
        pixels = rng.random((97, 203)) < share
        flat = np.concatenate([[False], pixels.T.ravel()])
        runs = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(flat), [True]])))
        runs[0] -= 1  # the pixel in front
        counts = coco_mask.encode(np.asfortranarray(pixels, np.uint8))['counts']
        assert run_lengths(counts.decode()).tolist() == run_lengths(counts).tolist() == runs.tolist()
        assert is_rle(counts, 97 * 203) and not is_rle(counts, 97 * 203 + 1)


def test_rle_of_pycocotools_is_accepted_and_other_text_is_not():
    rng = np.random.default_rng(0)
    for height, width, share in rng.random((200, 3)) * [300, 300, 1.2]:
        mask = np.asfortranarray(rng.random((int(height) + 1, int(width) + 1)) < share)
        counts = coco_mask.encode(mask.astype(np.uint8))['counts']
        assert is_rle(counts, mask.size) and not is_rle(counts, mask.size + 1)
    for counts in ('\ud800', b'', b'o', b'\x00', b'oooooooo1', b'O2', '\u2028'.encode()):
        assert not is_rle(counts, 30) and not is_rle(counts, 15)
