"""Loads annotations that some instances lack."""

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

from apa_mmdet.datasets.annotations.segmentations import is_polygon
from apa_mmdet.datasets.validation.masks import mask_fault
from apa_mmdet.utils.findings import Findings


@TRANSFORMS.register_module()
class LoadPartialMaskAnnotations(LoadAnnotations):
    """LoadAnnotations for data in which some instances have a box but no mask, such as V3Det's pseudo-masks of SAM.

    An instance without a mask (none, an empty list, only polygons of fewer than three points, a run-length code without
    size or counts) keeps its box and gets a mask without a pixel. mmdet's own ends in a KeyError or ignores the box as
    well. To be used with :class:`~apa_mmdet.models.roi_heads.PartiallyLabeledMaskHead`. Arguments as mmdet's
    ``LoadAnnotations``, except that ``with_mask`` is True by default.

    Raises:
        ValidationError: for any other mask that ``tools/check_dataset.py`` refuses; names the image and the instance.
        ValueError: for a run-length code with ``poly2mask=False``, unless the instance is ignored, as crowds are.
    """

    def __init__(self, with_mask: bool = True, **kwargs) -> None:
        super().__init__(with_mask=with_mask, **kwargs)

    def _process_masks(self, results: dict) -> list[list | dict]:
        """What mmdet's ``_load_masks`` makes masks of; unlike mmdet's it does not change ``gt_ignore_flags``."""
        height, width = results['ori_shape']
        no_pixel = dict(size=[height, width], counts=[height * width]) if self.poly2mask else [np.zeros(6)]
        masks = []
        for i, instance in enumerate(results.get('instances', [])):
            mask = instance.get('mask')
            code = mask_fault(mask, width, height, evaluated=False)
            if code == 'missing-mask':
                mask = no_pixel
            elif code not in (None, 'mask-polygon'):
                findings = Findings(results['img_path'], strict=True)
                findings.report(code, [f'instance {i}'], len(results['instances']))
            elif not isinstance(mask, dict):
                mask = [np.array(polygon) for polygon in mask if is_polygon(polygon)] or no_pixel
            elif not self.poly2mask and instance.get('ignore_flag'):  # a crowd, which is not learned
                mask = no_pixel
            elif not self.poly2mask:
                raise ValueError(
                    f'{results["img_path"]}: poly2mask=False reads only polygons, but the mask of instance {i} is a '
                    'run-length code; use poly2mask=True'
                )
            masks.append(mask)
        return masks
