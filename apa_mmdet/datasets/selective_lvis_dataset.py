"""LVIS with classes found by name, so that a list of names makes a smaller data set of the same files."""

from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmdet.registry import DATASETS

from .annotations.selection import BY_NAME, select_categories
from .indexed_datasets import IndexedCategories


class SelectedCategories(IndexedCategories):
    """Numbers the classes of ``metainfo`` in their order, instead of all categories of the file."""

    @IndexedCategories.cat_ids.setter
    def cat_ids(self, ids: list[int]) -> None:
        # mmdet sets all ids of the file here, and numbers them next
        categories = select_categories(self.metainfo['classes'], self.lvis.load_cats(ids), self.ann_file)
        IndexedCategories.cat_ids.fset(self, (category['id'] for category in categories))


@DATASETS.register_module()
class SelectiveLVISV1Dataset(SelectedCategories, LVISV1Dataset):
    """mmdet's ``LVISV1Dataset`` for the classes in ``metainfo``: all of LVIS v1's, or a list of their names.

    mmdet's numbers all categories of the file, whatever ``metainfo`` says. Here a label is a position in ``classes``,
    objects of other classes are skipped, and ``filter_cfg=dict(filter_empty_gt=True)`` drops the images that have none
    of these. ``FastLVISMetric`` then evaluates only these classes. Arguments as of ``LVISV1Dataset``.

    Raises:
        ValidationError: ``missing-category``, naming the classes that the file lacks, or ``duplicate-class``.

    Example:
        >>> train = dict(type='SelectiveLVISV1Dataset', metainfo=dict(classes=('cat', 'dog')))  # in a config
    """

    METAINFO = {**LVISV1Dataset.METAINFO, BY_NAME: True}


@DATASETS.register_module()
class SelectiveLVISV05Dataset(SelectedCategories, LVISV05Dataset):
    """mmdet's ``LVISV05Dataset`` for the classes in ``metainfo``, as :class:`SelectiveLVISV1Dataset`."""

    METAINFO = {**LVISV05Dataset.METAINFO, BY_NAME: True}
