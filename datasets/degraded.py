"""Degraded LR images: what photographs from cameras and the web have been through, and bicubic shrinking has not.

The `degrade` block of a config is the arguments of `Degradation`: {jpeg: [60, 95], blur: [0, 0.6]}.
"""
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from common.arrays import resize_bicubic
from common.ranges import Range
from common.registry import SpecError
from utils import nearest_name, shortened

KERNELS = {name: Image.Resampling[name.upper()] for name in ('box', 'bilinear', 'hamming', 'bicubic', 'lanczos')}
LIMITS = {'jpeg': Range(1, 100, whole=True), 'blur': Range(0, 10), 'noise': Range(0, 255)}
SHARE = Range(0, 1)
BLOCK = 16  # side in pixels of what a JPEG file with halved chroma is made of

Amount = float | list[float]  # a number, or the least and the greatest


class Degradation:
    """LR images by another kernel, then blurred, then noisy, then compressed. What is left out does not happen.

    An amount is a number, or a list of the least and the greatest, between which each image draws its own. Without arguments
    this is plain bicubic, and nothing is drawn.

    Args:
        jpeg: quality of a JPEG file, 1 to 100, as Pillow writes and reads it (halved chroma).
        blur: standard deviation of a Gaussian in LR pixels, 0 to 10 (Pillow's approximation).
        noise: standard deviation of Gaussian noise in each channel of 0 to 255.
        kernels: names of Pillow's resampling filters ('box', 'bilinear', 'hamming', 'bicubic', 'lanczos'), antialiased, of
            which each image draws one; None for bicubic.
        share: of the images that are degraded, 0 to 1; the others are plain bicubic.
    """

    def __init__(self, *, jpeg: Amount | None = None, blur: Amount | None = None, noise: Amount | None = None,
                 kernels: list[str] | None = None, share: float = 1):
        amounts = {'jpeg': jpeg, 'blur': blur, 'noise': noise}
        self._amounts = {key: _bounds(key, amount) for key, amount in amounts.items() if amount is not None}
        if kernels is not None and (not isinstance(kernels, list) or not kernels):
            raise SpecError(f'degrade.kernels: expected a list of names, got {shortened(kernels)}')
        for name in kernels or ():
            if not isinstance(name, str) or name not in KERNELS:
                raise SpecError(f'degrade.kernels: unknown kernel {shortened(name)}; {nearest_name(name, KERNELS)}')
        if share not in SHARE:
            raise SpecError(f'degrade.share: expected {SHARE}, got {shortened(share)}')
        self.kernels, self.share = kernels, share

    def __str__(self) -> str:
        """Different for any two that differ: 'jpeg 75, noise 1 to 3'; empty where nothing happens."""
        texts = [f'{key} {least}' if least == most else f'{key} {least} to {most}'
                 for key, (least, most) in self._amounts.items()]
        texts += [f'kernels {" ".join(self.kernels)}'] if self.kernels else []
        return ', '.join(texts + ([f'share {self.share}'] if self.share < 1 else []))

    def make_lr(self, hr: np.ndarray, height: int, width: int, rng: np.random.Generator, part: bool = False) -> np.ndarray:
        """The LR image of an HR image: (H, W, 3) uint8 → (height, width, 3) uint8.

        Args:
            part: of a larger image, so that JPEG's blocks begin anywhere in it.
        """
        if self._spares(rng):
            return resize_bicubic(hr, height, width)
        kernel = KERNELS[self.kernels[rng.integers(len(self.kernels))]] if self.kernels else Image.Resampling.BICUBIC
        lr = np.asarray(Image.fromarray(hr).resize((width, height), kernel))
        if part and 'jpeg' in self._amounts:
            top, left = (int(before) for before in rng.integers(BLOCK, size=2))
            lr = np.pad(lr, ((top, 0), (left, 0), (0, 0)), mode='symmetric')
        return self._spoil(lr, rng)[-height:, -width:]

    def of_prepared(self, lr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A prepared LR image (h, w, 3) uint8, degraded by all but the kernels."""
        return lr if self._spares(rng) else self._spoil(lr, rng)

    def _spares(self, rng: np.random.Generator) -> bool:
        return self.share < 1 and rng.random() >= self.share

    def _spoil(self, lr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = {key: rng.uniform(*bounds) for key, bounds in self._amounts.items()}
        if drawn.get('blur'):
            lr = np.asarray(Image.fromarray(lr).filter(ImageFilter.GaussianBlur(drawn['blur'])))
        if drawn.get('noise'):
            noisy = lr + rng.normal(0, drawn['noise'], lr.shape)
            lr = noisy.round().clip(0, 255).astype(np.uint8)
        return _through_jpeg(lr, round(drawn['jpeg'])) if 'jpeg' in drawn else lr


def make_degradation(spec: dict | None) -> Degradation:
    """What a `degrade` block describes. Raises: SpecError that begins with the key."""
    keys = (*LIMITS, 'kernels', 'share')
    for key in spec or ():
        if key not in keys:
            raise SpecError(f'degrade.{shortened(key, quotes=False)}: unknown key; {nearest_name(key, keys)}')
    return Degradation(**(spec or {}))


def _bounds(key: str, amount: Amount) -> tuple[float, float]:
    """(least, greatest) of an amount. Raises: SpecError."""
    ends = amount if isinstance(amount, list) else [amount, amount]
    if len(ends) != 2 or any(end not in LIMITS[key] for end in ends) or ends[0] > ends[1]:
        raise SpecError(f'degrade.{key}: expected {LIMITS[key]}, or a list of the least and the greatest, '
                        f'got {shortened(amount)}')
    return ends[0], ends[1]


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    with Image.open(file) as opened:
        return np.asarray(opened.convert('RGB'))
