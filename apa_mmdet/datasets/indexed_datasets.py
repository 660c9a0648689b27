"""MMDetection's data sets, built in time that does not grow with the number of classes, and in less memory."""

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

from mmdet.datasets import CocoDataset, V3DetDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS

from apa_mmdet.utils.garbage import paused_collection, return_memory


class IndexedList(list):
    """A list, of values that do not change, which finds a value by its hash.

    Example:
        >>> 3 in IndexedList([1, 3]), 2 in IndexedList([1, 3])
        (True, False)
    """

    def __init__(self, values: Iterable = ()) -> None:
        super().__init__(values)
        self._known = frozenset(self)

    def __contains__(self, value: Any) -> bool:
        return value in self._known


class IndexedCOCO(COCO):
    """Finds the ids of categories by their names in one pass."""

    def get_cat_ids(self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Sequence = ()) -> list:
        """Ids in the order of the file; without arguments, all."""
        names = cat_names if isinstance(cat_names, str) else frozenset(cat_names)
        return super().get_cat_ids(names, sup_names, cat_ids)


class IndexedCategories:
    """Mixed into a data set: categories are looked up by their hash, and loading does not search for reference cycles.

    ``CocoDataset`` looks for it in the list ``cat_ids`` for each object: with the 1.4 million boxes and 13,204 classes
    of V3Det that takes minutes each time a process starts. Nothing else differs.
    """

    COCOAPI = IndexedCOCO  # LVIS's data sets have an API of their own, and take all categories

    def full_init(self) -> None:
        """As the data set does, and frees the memory of the file.

        ``cat_img_map`` keeps the ids of images as they were read, a number between the coordinates of any two objects.
        Python frees memory by the MiB, so that of LVIS train 8 GiB would stay for 0.1 GiB of numbers.
        """
        if not self._fully_initialized:
            super().full_init()
            self.cat_img_map = pickle.loads(pickle.dumps(self.cat_img_map))
            return_memory()

    def load_data_list(self) -> list[dict]:
        """As the data set does."""
        with paused_collection():
            return super().load_data_list()

    @property
    def cat_ids(self) -> IndexedList:
        """Ids of the classes, in the order of the labels."""
        return self._cat_ids

    @cat_ids.setter
    def cat_ids(self, ids: Iterable) -> None:
        self._cat_ids = IndexedList(ids)


@DATASETS.register_module()
class IndexedCocoDataset(IndexedCategories, CocoDataset):
    """:class:`mmdet.datasets.CocoDataset` with :class:`IndexedCategories`."""


@DATASETS.register_module()
class IndexedV3DetDataset(IndexedCategories, V3DetDataset):
    """:class:`mmdet.datasets.V3DetDataset` with :class:`IndexedCategories`."""
