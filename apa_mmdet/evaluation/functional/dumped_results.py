"""The file of ``tools/test.py --out``: a pickle of data samples, read as tensors and plain data."""

import io
from pathlib import Path
from typing import Any

from apa_mmdet.checkpoint import safe_unpickler
from apa_mmdet.checkpoint.stand_ins import Refused
from apa_mmdet.utils.errors import one_line

from .prediction_store import PredictionError


class _Unpickler(safe_unpickler.SafeUnpickler):
    """Of a file of ``pickle.dump``, where each tensor has its storage as a file of ``torch.save``."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file)
        self.sparse = []
        self.allowed = dict(self.allowed, **{'torch.storage._load_from_bytes': _storage})
        self.callables = {*self.callables, id(_storage)}


def _storage(content: bytes) -> Any:
    """Stand-in for the function that torch's pickles name, which would run what the bytes hold."""
    return safe_unpickler.load(io.BytesIO(content), 'cpu')


def read_dumped_results(path: Path) -> list[dict]:
    """The data samples, which a metric takes.

    Raises:
        FileNotFoundError: if there is no such file.
        PredictionError: ``not-predictions`` if it is damaged, holds something else, or would run code.
    """
    with path.open('rb') as file:
        try:
            samples = _Unpickler(file).load()
        except Refused as error:
            found = f' is not what tools/test.py --out writes, and was not loaded ({error.code})'
            raise PredictionError.of('not-predictions', path, found) from None
        except Exception as error:  # torch raises all types over damaged files
            found = f' is damaged or not a pickle: {one_line(error)}'
            raise PredictionError.of('not-predictions', path, found) from None
    for i, sample in enumerate(samples if isinstance(samples, list) else [samples]):
        found = sample.get('pred_instances') if isinstance(sample, dict) else None
        if not (isinstance(samples, list) and 'img_id' in sample and isinstance(found, dict)):
            found = f': entry {i} has no img_id with pred_instances, as tools/test.py --out writes'
            raise PredictionError.of('not-predictions', path, found)
        missing = {'bboxes', 'scores', 'labels'} - set(found)
        if missing:
            text = f': image {sample["img_id"]!r} has no {min(missing)}'
            raise PredictionError.of('not-predictions', path, text)
    return samples
