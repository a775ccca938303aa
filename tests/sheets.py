"""Finding a picture again in a sheet that shows it enlarged, among others and captions."""

import numpy as np


def places(sheet, image, scale=None, tolerance=0):
    """(top, left) of every place where uint8 [H, W, 3] `sheet` shows `image`, each of its pixels
    as a square of scale x scale (default: as many as make its shorter side 128)."""
    sheet, image = np.asarray(sheet, dtype=int), np.asarray(image, dtype=int)
    scale = scale or -(-128 // min(image.shape[:2]))
    large = image.repeat(scale, 0).repeat(scale, 1)
    rows, columns = (s - e + 1 for s, e in zip(sheet.shape[:2], large.shape[:2], strict=True))
    if rows < 1 or columns < 1:
        return []
    fits = np.ones((rows, columns), dtype=bool)
    for y in (0, large.shape[0] // 2, -1):  # few pixels first, all of them where those fit
        for x in (0, large.shape[1] // 3, -1):
            top, left = y % large.shape[0], x % large.shape[1]
            seen = sheet[top : top + rows, left : left + columns]
            fits &= (abs(seen - large[y, x]) <= tolerance).all(-1)
    found = []
    for top, left in np.argwhere(fits):
        seen = sheet[top : top + large.shape[0], left : left + large.shape[1]]
        if (abs(seen - large) <= tolerance).all():
            found.append((int(top), int(left)))
    return found


def has_text(sheet, top, bottom, left, right):
    """Whether that part of a sheet is black on white, which captions are."""
    part = np.asarray(sheet)[top:bottom, left:right]
    return bool((part < 90).all(-1).any() and (part == 255).all(-1).mean() > 0.5)
