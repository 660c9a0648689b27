"""Loading of the images that a detector is to detect on: as its config says, in whatever format they are."""

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.registry import TRANSFORMS

from apa_mmdet.visualization.images import BadImage


class AnyImageLoader(BaseTransform):
    """The config's loader for paths, and the same for arrays.

    Of a file with several images, as an animated GIF or a multi-page TIFF, the first is loaded. A file that OpenCV does
    not decode is tried with Pillow.

    Args:
        loader: config of the pipeline's first transform, a ``LoadImageFromFile`` or a class that takes its place.
    """

    def __init__(self, loader: dict) -> None:
        self.from_file = TRANSFORMS.build(loader)
        options = {key: loader[key] for key in ('to_float32', 'color_type', 'imdecode_backend') if key in loader}
        self.from_array = TRANSFORMS.build(dict(type='mmdet.LoadImageFromNDArray', **options))
        stock = type(self.from_file) is LoadImageFromFile and self.from_file.imdecode_backend == 'cv2'
        self.fallbacks = [TRANSFORMS.build(dict(loader, imdecode_backend='pillow'))] if stock else []

    def transform(self, results: str | np.ndarray | dict) -> dict:
        """Loads the image of a path, an array, or a dict with ``img_path`` or ``img``."""
        if not isinstance(results, dict):
            results = dict(img_path=results) if isinstance(results, str) else dict(img=results)
        if 'img' in results:
            return self.from_array(results)
        causes = []
        for loader in (self.from_file, *self.fallbacks):
            try:
                loaded = loader(dict(results))
                if loaded is not None:
                    return loaded
            except Exception as error:  # of the decoder: OpenCV raises all types over arbitrary bytes
                causes.append(error)
        raise BadImage.of(results['img_path']) from (causes[0] if causes else None)
