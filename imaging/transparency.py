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
    # flat, with a border of one pixel, so that every pixel has eight neighbours
    out = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    known = np.pad(visible, 1).ravel()
    reached = ~np.pad(~visible, 1).ravel()  # visible, in a layer, or the border
    steps = [y * (width + 2) + x for y, x in _AROUND]
    layer = np.flatnonzero(_beside(np.pad(visible, 1)).ravel() & ~reached)
    for _ in range(REACH):
        if not len(layer):
            break
        reached[layer] = True
        total, count = np.zeros((len(layer), channels)), np.zeros((len(layer), 1))
        for step in steps:
            has = known[layer + step, None]
            total += out[layer + step] * has
            count += has
        out[layer] = _rounded(total / count, pixels.dtype)
        known[layer] = True
        further = []
        for step in steps:
            places = layer + step
            further.append(places[~reached[places]])
            reached[further[-1]] = True  # once
        layer = np.concatenate(further)
    reached[layer] = False
    if not reached.all():
        out[~reached] = _rounded(pixels[visible].mean(0, dtype=np.float64), pixels.dtype)
    return out.reshape(height + 2, width + 2, channels)[1:-1, 1:-1]


def _beside(known: np.ndarray) -> np.ndarray:
    """Where one of the eight neighbours is True, of an array whose border is False."""
    beside = np.zeros_like(known)
    for step in _AROUND:
        beside |= np.roll(known, step, (0, 1))
    return beside


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return values.astype(dtype) if dtype.kind == 'f' else np.rint(values).astype(dtype)
