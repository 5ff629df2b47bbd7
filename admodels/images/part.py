"""Where the part is: what does not have the colour of the border of its image."""

import cv2
import numpy as np

from admodels.foundation.arrays import UInt8

BORDER_SHARE = 1 / 32  # of a side: what is taken for background
SPREADS = 3  # Otsu's threshold splits anything: it must leave the border's own values that far
SMALLEST_SHARE = 0.02  # of the image; an estimate below it is a mistake


def estimate_matte(planes: UInt8) -> UInt8 | None:
    """(3, H, W) uint8 RGB -> (H, W) of 0 and 255: what is not of the border's colour, filled.

    Distance to the median colour of the border, Otsu's threshold, holes filled. None where that
    says nothing: a part without contrast to most of the border, or implausibly small.
    """
    lab = cv2.cvtColor(cv2.merge(list(planes)), cv2.COLOR_RGB2Lab).astype(np.float32)
    height, width = lab.shape[:2]
    band = max(1, round(min(height, width) * BORDER_SHARE))
    is_border = np.ones((height, width), dtype=np.bool_)
    is_border[band:-band, band:-band] = False
    distance = np.linalg.norm(lab - np.median(lab[is_border], axis=0), axis=2)
    levels = cv2.GaussianBlur(np.clip(distance, 0, 255).astype(np.uint8), (0, 0), band)
    threshold, distant = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(distant, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(distant), outlines, -1, 255, cv2.FILLED)
    usual = np.median(levels[is_border])
    spread = np.median(np.abs(levels[is_border] - usual))
    distinct = threshold > usual + SPREADS * max(1, spread)
    plausible = (filled > 0).mean() >= SMALLEST_SHARE
    return np.asarray(filled, dtype=np.uint8) if distinct and plausible else None
