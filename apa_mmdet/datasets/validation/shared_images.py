"""Finds images of a training that are evaluated as well."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Protocol

from apa_mmdet.utils.findings import Findings


class ImagesOfSplits(Protocol):
    """A data set: the splits that use it, and the paths of its images."""

    splits: Sequence[str]
    paths: Sequence[str]


def check_shared_images(checked: Sequence[ImagesOfSplits], findings: Findings, by_content: bool) -> None:
    """Reports images of training that are evaluated as well: by path and, with ``by_content``, by their bytes."""
    trained = dict.fromkeys(chain.from_iterable(c.paths for c in checked if 'train' in c.splits))
    for other in checked:
        split = ', '.join(name for name in other.splits if name != 'train')
        if not split or not trained:
            continue
        shared = [path for path in dict.fromkeys(other.paths) if path in trained]
        findings.report('trained-and-evaluated', shared, len(other.paths), split=split)
        if by_content:
            known = set(shared)
            twins = dict(_twins(trained, [path for path in other.paths if path not in known]))
            findings.report('trained-and-evaluated', list(twins), len(other.paths), list(twins.values()), split=split)


def _twins(trained: dict[str, None], evaluated: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields images that have the same bytes as one of training, and which; reads only files of equal size."""
    sizes: dict[int, list[str]] = defaultdict(list)
    wanted: dict[int, list[str]] = defaultdict(list)
    for paths, of_size in ((trained, sizes), (evaluated, wanted)):
        for path in paths:
            if '://' not in path and os.path.isfile(path):
                of_size[os.path.getsize(path)].append(path)
    for size in sorted(wanted.keys() & sizes.keys()):
        digests = {_digest(path): path for path in reversed(sizes[size])}
        for path in wanted[size]:
            twin = digests.get(_digest(path))
            if twin is not None:
                yield path, f'as {twin}'


def _digest(path: str) -> bytes:
    with open(path, 'rb') as file:
        return blake2b(file.read(), digest_size=16).digest()
