"""Names images that cannot be read, and skips and counts them where a config allows it."""

from collections.abc import Iterator
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import MMLogger

from apa_mmdet.utils.errors import CodedError, one_line

MAX_LOGGED = 20  # paths in the log, by each process that loads images
ADVICE = 'tools/check_dataset.py finds all; ignore_empty=True in LoadImageFromFile skips them in training'


class UnreadableImage(CodedError):
    """An image that cannot be decoded; a line with its path. Code: ``unreadable-image``."""


class ImageLoader:
    """Loads images with ``load``, a ``LoadImageFromFile``; the error about one that cannot be read names it.

    With ``skips`` and ``ignore_empty=True`` of ``load``, an image that is missing or cannot be read is None, for which
    mmengine's data sets take another one at random; ``skipped`` counts those of all worker processes.
    """

    def __init__(self, load: LoadImageFromFile, skips: bool) -> None:
        self.load, self.skips = load, skips and load.ignore_empty
        load.ignore_empty = False  # it would hide errors, and not all
        self.skipped = torch.zeros((), dtype=torch.int64).share_memory_()
        self._logged: set[str] = set()

    def __call__(self, results: dict) -> dict | None:
        try:
            return self.load(results)
        except Exception as error:  # decoders and storage backends raise what they like
            path = results.get('img_path')
            if self.skips:
                self._skip(f'image {path} is skipped: {one_line(error)}')
                return None
            if isinstance(error, OSError) and error.filename:  # not that of a decoder
                raise
            line = f'image {path} cannot be read ({one_line(error)}); {ADVICE}'
            raise UnreadableImage('unreadable-image', line) from error

    def _skip(self, line: str) -> None:
        self.skipped += 1
        if line not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(line)
            MMLogger.get_current_instance().warning(line)

    def __getattr__(self, name: str) -> Any:
        if name == 'load' or name.startswith('__'):  # a copy that is being made asks for them
            raise AttributeError(name)
        return getattr(self.load, name)

    def __repr__(self) -> str:
        return repr(self.load)


def name_unreadable_images(dataset: Any) -> None:
    """Wrap each ``LoadImageFromFile`` in the pipelines of a data set, and of those in it, in an ImageLoader."""
    for transforms, test_mode in _pipelines(dataset):
        for i, transform in enumerate(transforms):
            if isinstance(transform, LoadImageFromFile):
                transforms[i] = ImageLoader(transform, skips=not test_mode)


def count_skipped_images(dataset: Any) -> int:
    """How often an image was skipped."""
    loaders = {id(t): t for transforms, _ in _pipelines(dataset) for t in transforms if isinstance(t, ImageLoader)}
    return sum(int(loader.skipped) for loader in loaders.values())  # each once: wrappers pass attributes on


def _pipelines(dataset: Any) -> Iterator[tuple[list, bool]]:
    """The lists of transforms of a data set and of those in it, and whether each is in test mode."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    if isinstance(transforms, list):
        yield transforms, getattr(dataset, 'test_mode', False)
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            yield from _pipelines(inner)
