"""Colours under transparent pixels. They are arbitrary, and resampling would carry them into visible pixels beside them."""
import numpy as np

REACH = 64  # pixels around visible ones whose colours follow their neighbours; all others take the mean colour
_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def bleed(pixels: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The pixels, with the colours of visible ones spread under all others.

    Layer by layer, up to REACH pixels away, a pixel becomes the mean of its neighbours that have a colour.

    Args:
        pixels: (H, W, C).
        visible: (H, W) of bool.
    Returns: `pixels` itself where all are visible, or none.
    """
    if visible.all() or not visible.any():
        return pixels
    height, width, channels = pixels.shape
    out = pixels.copy()
    out[~visible] = _rounded(pixels[visible].mean(0, dtype=np.float64), pixels.dtype)
    known = np.zeros((height + 2, width + 2), bool)  # with a frame, so that every pixel has eight neighbours
    known[1:-1, 1:-1] = visible
    inside = np.zeros_like(known)
    inside[1:-1, 1:-1] = True
    rows, columns = np.nonzero(_beside(known) & inside)
    for _ in range(REACH):
        if not len(rows):
            break
        total, count = np.zeros((len(rows), channels)), np.zeros(len(rows))
        for y, x in _AROUND:
            has = known[rows + y, columns + x]
            total[has] += out[rows[has] + y - 1, columns[has] + x - 1]
            count += has
        out[rows - 1, columns - 1] = _rounded(total / count[:, None], pixels.dtype)
        known[rows, columns] = True
        places = np.unique(np.concatenate([(rows + y) * (width + 2) + columns + x for y, x in _AROUND]))
        rows, columns = np.divmod(places, width + 2)
        new = inside[rows, columns] & ~known[rows, columns]
        rows, columns = rows[new], columns[new]
    return out


def _beside(known: np.ndarray) -> np.ndarray:
    """Where `known` is False and one of the eight neighbours is True."""
    beside = np.zeros_like(known)
    for y, x in _AROUND:
        beside |= np.roll(known, (y, x), (0, 1))
    return beside & ~known


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return values.astype(dtype) if dtype.kind == 'f' else np.rint(values).astype(dtype)
