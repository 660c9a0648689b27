"""Images of any number of channels and any type of numbers, as a person sees them."""

import mmcv
import numpy as np

from apa_mmdet.utils.errors import CodedError

UNREADABLE = 'not an image, damaged, or of a format that neither OpenCV nor Pillow reads here'


class BadImage(CodedError):
    """An image file that cannot be loaded; code ``unreadable-image``. The message names it."""

    @classmethod
    def of(cls, path: str) -> 'BadImage':
        """The error of a file."""
        return cls('unreadable-image', f'{path}: {UNREADABLE}')


def read_rgb(path: str) -> np.ndarray:
    """Reads an image file as RGB, 0 to 255.

    Raises:
        BadImage: if no library here reads it.
    """
    for backend, flag in (('cv2', 'color'), ('cv2', 'unchanged'), ('pillow', 'color')):
        try:
            image = mmcv.imread(path, flag=flag, backend=backend)
        except Exception:  # of the decoder: OpenCV raises all types over arbitrary bytes
            continue
        if image is not None:
            return as_rgb(image)
    raise BadImage.of(path)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Shows an image as RGB: a single channel as gray, of more than three the first three, taken for BGR.

    Numbers of other types than ``uint8`` are shown from 0 to 255 where they lie there, or else from their minimum
    (black) to their maximum (white).

    Args:
        image: height x width, or height x width x channels.

    Example:
        >>> as_rgb(np.array([[0, 65535]], np.uint16)).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
        >>> as_rgb(np.array([[[1, 2, 3, 4]]], np.uint8)).tolist()
        [[[3, 2, 1]]]
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., 2::-1] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
        low, high = image.min(initial=0.0), image.max(initial=255.0)
        if low < 0 or high > 255:
            low, high = image.min(), image.max()
            image = (image - low) * (255 / max(high - low, 1e-12))
    return np.ascontiguousarray(image.round() if image.dtype != np.uint8 else image).astype(np.uint8)
