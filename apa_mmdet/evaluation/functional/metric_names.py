"""The names of average precision and recall, as mmdet's and our metrics give them."""

import re
from collections.abc import Iterable

KINDS = dict(bbox='box', segm='mask')  # what the prefix of a metric stands for
OVERALL = 'segm_AP', 'segm_mAP', 'bbox_AP', 'bbox_mAP'  # the first that there is says how good a detector is
_AVERAGE = re.compile(r'(bbox_|segm_)?m?A[PR](50|75|[smlrcf])?(_(50|75|[sml]))?(@\d+)?')


def is_average(key: str) -> bool:
    """Whether a metric is an average precision or recall, of which more is better; ``key`` may have prefixes.

    Example:
        >>> is_average('lvis/segm_AP'), is_average('coco/bbox_mAP_50'), is_average('AR_s@1000'), is_average('loss')
        (True, True, True, False)
    """
    return _AVERAGE.fullmatch(key.rsplit('/', 1)[-1]) is not None


def overall_precision(keys: Iterable[str]) -> str | None:
    """The overall average precision among metrics: of masks where there are masks; of several data sets the first.

    Example:
        >>> overall_precision(['rare_class_precision', 'lvis/bbox_AP', 'lvis/bbox_APr', 'lvis/segm_AP'])
        'lvis/segm_AP'
    """
    keys = list(keys)
    return next((key for name in OVERALL for key in keys if key.rsplit('/', 1)[-1] == name), None)
