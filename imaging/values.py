"""Values of any type and range → uint8, uint16, or float32 in [0, 1]."""
import numpy as np

from utils import UserError

Range = tuple[float, float]
_BYTES = 128, 255  # floating-point images whose maximum lies between go from 0 to 255


def scaled(values: np.ndarray, largest: int | None = None, given: Range | None = None) -> np.ndarray:
    """Values as a `Frame` holds them.

    Args:
        values: unsigned integers that go up to `largest`, or others.
        largest: None: of the type.
        given: the range of the values, where the user says so; values outside it are cut.
    Returns: uint8 or uint16 for unsigned integers of so many bits, else float32 in [0, 1].
    Raises: UserError, without the name of the file, for values that are not finite, or of an unknown range.
    """
    kind = values.dtype
    if kind.kind in 'ub' and kind.itemsize <= 2:
        full = np.iinfo(kind).max if kind.kind == 'u' else 1
        low, high = given or (0, largest or full)
        target = np.uint8 if kind.itemsize == 1 and high <= 255 else np.uint16
        if (low, high) == (0, np.iinfo(target).max) and kind == target:
            return values
        levels = np.clip((np.arange(full + 1) - low) / (high - low), 0, 1) * np.iinfo(target).max
        return np.rint(levels).astype(target)[values.astype(np.intp) if kind.kind == 'b' else values]
    if kind.kind not in 'fiu':
        raise UserError(f'holds values of type {kind}, expected numbers')
    if kind.kind == 'f' and not np.isfinite(values).all():
        raise UserError('holds values that are not finite (NaN or infinity)')
    low, high = given or _range_of(values)
    exact = values.astype(np.float32 if kind.kind == 'f' and kind.itemsize <= 4 else np.float64)
    return np.clip((exact - low) / (high - low), 0, 1).astype(np.float32)


def _range_of(values: np.ndarray) -> Range:
    """0 to 1, or 0 to 255 where the maximum says so. Raises UserError for values that neither holds."""
    low, high = values.min(), values.max()
    if values.dtype.kind == 'f' and low >= 0 and high <= 1:
        return 0, 1
    if values.dtype.kind == 'f' and low >= 0 and _BYTES[0] <= high <= _BYTES[1]:
        return 0, 255
    raise UserError(f'holds values of type {values.dtype} from {low:g} to {high:g}; 0 to 1 and 0 to 255 are known, for '
                    'others say which values are black and white, such as -range 0,10')
