"""Captions below images, and sheets of images."""

from collections.abc import Sequence

import cv2
import numpy as np

CAPTION = 24  # pixels


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text below; what is too long loses its beginning."""
    strip = np.full((CAPTION, picture.shape[1], 3), 255, np.uint8)
    letters = max(8, picture.shape[1] // 9)
    text = text if len(text) <= letters else '...' + text[3 - letters :]
    cv2.putText(strip, text, (2, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def grid(pictures: Sequence[np.ndarray], columns: int = 2, gap: int = 12) -> np.ndarray:
    """Pictures of any sizes on one white sheet, in rows.

    Example:
        >>> grid([np.zeros((10, 20, 3)), np.zeros((30, 10, 3)), np.zeros((5, 5, 3))], columns=2, gap=1).shape
        (63, 43, 3)
    """
    height, width = (max(p.shape[i] for p in pictures) + gap for i in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height + gap, min(columns, len(pictures)) * width + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height + gap, i % columns * width + gap
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet
