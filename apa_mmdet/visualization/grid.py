"""Arranges images in a grid, with captions."""

from collections.abc import Sequence

import cv2
import numpy as np

CAPTION_HEIGHT = 24  # pixels


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """Adds a line of text below an image; the beginning of a long text is cut."""
    strip = np.full((CAPTION_HEIGHT, image.shape[1], 3), 255, np.uint8)
    letters = max(8, image.shape[1] // 9)
    text = text if len(text) <= letters else '...' + text[3 - letters :]
    cv2.putText(strip, text, (2, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def grid(images: Sequence[np.ndarray], columns: int = 2, gap: int = 12) -> np.ndarray:
    """Arranges images of any sizes in rows on a white sheet.

    Example:
        >>> grid([np.zeros((10, 20, 3)), np.zeros((30, 10, 3)), np.zeros((5, 5, 3))], columns=2, gap=1).shape
        (63, 43, 3)
    """
    height, width = (max(image.shape[i] for image in images) + gap for i in (0, 1))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height + gap, min(columns, len(images)) * width + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height + gap, i % columns * width + gap
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
