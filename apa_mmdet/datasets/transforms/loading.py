import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadPartialMaskAnnotations(LoadAnnotations):
    """LoadAnnotations for data in which some instances have a box but no mask, such as V3Det's pseudo-masks of SAM.

    An instance whose mask is missing or cannot be read (empty list, polygons of fewer than three points, a run-length
    code without counts) keeps its box and gets a mask without a single pixel. mmdet's own ends in a KeyError
    or ignores the box as well. To be used with
    :class:`~apa_mmdet.models.roi_heads.PartiallyLabeledMaskHead`. Arguments as mmdet's ``LoadAnnotations``, but that
    ``with_mask`` is True by default.
    """

    def __init__(self, with_mask: bool = True, **kwargs) -> None:
        super().__init__(with_mask=with_mask, **kwargs)

    def _process_masks(self, results: dict) -> list[list | dict]:
        """What mmdet's ``_load_masks`` makes masks of; unlike mmdet's it leaves ``gt_ignore_flags`` alone."""
        height, width = results['ori_shape']
        no_pixel = dict(size=[height, width], counts=[height * width]) if self.poly2mask else [np.zeros(6)]
        masks = [self._readable(instance.get('mask')) for instance in results.get('instances', [])]
        for mask in masks:
            if not isinstance(mask, dict):
                continue
            if not self.poly2mask:
                raise ValueError(
                    f'{results["img_path"]}: poly2mask=False knows polygons alone, but a mask of this image '
                    'is a run-length code; leave poly2mask=True'
                )
            if list(mask['size']) != [height, width]:
                raise ValueError(
                    f'{results["img_path"]}: a mask of {mask["size"]} pixels (height, width) in an image '
                    f'of {[height, width]}'
                )
        return [no_pixel if mask is None else mask for mask in masks]

    def _readable(self, mask: list | dict | None) -> list | dict | None:
        """The polygons that are some, or the run-length code; None for no mask."""
        if isinstance(mask, dict):
            complete = mask.get('size') and isinstance(mask.get('counts'), (list, str, bytes))
            return mask if complete else None
        polygons = [np.array(p) for p in mask or [] if len(p) >= 6 and len(p) % 2 == 0]
        return polygons or None
