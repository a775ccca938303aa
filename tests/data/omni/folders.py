"""A folder of pictures and maps as process_data.py takes it."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, count: int = 6, size: tuple[int, int] = (20, 30)) -> Path:
    """`count` pictures a0.png, .. with s as .npy, d as .png; h of all but the last; in `root`.

    Values say where they are: s is 0 left of the middle and 1 right of it, d is 10 + the sample's
    number, h is 0 in the upper half and 255 in the lower.
    """
    height, width = size
    for folder in ("Data", "Segmentation", "Depth", "Height"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        picture = np.full((height, width, 3), 40 * i, np.uint8)
        picture[:, width // 2 :, 0] = 200
        Image.fromarray(picture).save(root / f"Data/a{i}.png")
        segments = np.zeros((height, width), np.int64)
        segments[:, width // 2 :] = 1
        np.save(root / f"Segmentation/a{i}.npy", segments)
        Image.fromarray(np.full((height, width), 10 + i, np.uint8)).save(root / f"Depth/a{i}.png")
        high = np.zeros((height, width), np.uint8)
        high[height // 2 :] = 255
        if i < count - 1:
            Image.fromarray(high).save(root / f"Height/a{i}.png")
    return root
