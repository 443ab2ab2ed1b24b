"""Windows of an image at any scale: by the network where they are enlarged, by bicubic where they are reduced."""
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common import coords
from common.arrays import to_tensor
from common.coords import Region
from imaging import find_format, read_image, suited
from imaging.frame import full_scale
from models.contract import SRModel
from models.latents import LatentCache
from models.upscale import nearest_in
from utils import UserError

LATENT_MEMORY = 2 ** 29  # bytes of latents that are kept
SIDE = 128               # LR pixels of the regions that are encoded at a time, if the model depends on few around them


class Window(NamedTuple):
    """A rectangle of an image, in real numbers of its pixels."""
    top: float
    left: float
    bottom: float
    right: float

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def width(self) -> float:
        return self.right - self.left


class Part(NamedTuple):
    """A part of the whole image at some size: its output rows and columns, the window that shows it, and its region."""
    region: Region
    rows: slice
    columns: slice
    window: Window

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def check_windows(model: SRModel, option: str) -> None:
    """Raises UserError unless the model renders windows at any scale.

    Args:
        option: what needs it, for the message.
    """
    if not model.has_windows:
        raise UserError(f'{option}: the output pixels of this model depend on each other, so it renders no windows; '
                        'choose another -model')
    if model.fixed_scale:
        raise UserError(f'{option}: this model upscales by exactly {model.fixed_scale}; choose an arbitrary-scale -model')


def read_for_screen(path: str | Path, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """An image file as screens show it: (H, W, 3) uint8, sRGB, transparent parts white.

    Args:
        value_range: of `read_image`, which also raises the same errors.
    """
    frame = suited(read_image(path, value_range), find_format('screen.bmp'))  # which carries no profile
    rgb = frame.rgb()
    if frame.alpha is None and rgb.dtype == np.uint8:
        return np.array(rgb)
    full = full_scale(rgb.dtype)
    opacity = 1.0 if frame.alpha is None else (frame.alpha / np.float32(full))[..., None]
    return np.rint(255 * (1 - opacity + rgb / np.float32(full) * opacity)).astype(np.uint8)


class WindowedImage:
    """An image that is encoded once, region by region, when a window first needs them.

    Args:
        model: one that `check_windows` accepts.
        rgb: (H, W, 3) uint8.
        cache: keeps the latents; images may share one.
    """

    def __init__(self, *, model: SRModel, rgb: np.ndarray, cache: LatentCache):
        self.model = model
        self.height, self.width = rgb.shape[:2]
        self.image = Image.fromarray(rgb)
        self._encoded = model.encode_image(to_tensor(rgb).unsqueeze(0), max(SIDE, 2 * (model.reach or 0)), cache)

    def render(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """A window by the network, or by bicubic where `size` has fewer pixels in both directions: (h, w, 3) uint8.

        Args:
            window: inside the image.
            size: (h, w).
        """
        if not self.needs_network(window, size):
            return self.bicubic(window, size)
        rgb = self.model.render(self._encoded, window, size)[0]                 # (3, h, w)
        return rgb.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()

    def bicubic(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """A window by Pillow's bicubic, antialiased where it becomes smaller: (h, w, 3) uint8."""
        box = (window.left, window.top, window.right, window.bottom)
        return np.asarray(self.image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))

    def needs_network(self, window: Window, size: tuple[int, int]) -> bool:
        """Whether a window has fewer pixels than `size`, in height or width."""
        return size[0] > window.height or size[1] > window.width

    def parts(self, size: tuple[int, int], pixels: int) -> Iterator['Part']:
        """The whole image at `size` in parts of at most about `pixels` pixels, region by region."""
        centres = [coords.pixel_centres(length) for length in size]
        rows, columns = (coords.nearest_index(line, side) for line, side in zip(centres, (self.height, self.width)))
        for region in self._encoded.regions:
            y, x = nearest_in(rows, region.top, region.bottom), nearest_in(columns, region.left, region.right)
            step = max(1, pixels // max(1, x.stop - x.start))
            for top in range(y.start, y.stop, step):
                part = slice(top, min(top + step, y.stop))
                yield Part(region, part, x, self._window(size, part, x))

    def _window(self, size: tuple[int, int], rows: slice, columns: slice) -> Window:
        """The window that some rows and columns of the whole image at `size` show."""
        down, across = self.height / size[0], self.width / size[1]
        return Window(rows.start * down, columns.start * across,
                      min(rows.stop * down, self.height), min(columns.stop * across, self.width))

    @property
    def all_regions(self) -> list[Region]:
        """The regions that are encoded one by one."""
        return self._encoded.regions

    def regions(self, window: Window, size: tuple[int, int]) -> list[Region]:
        """The regions whose latents `render` needs, at most."""
        if not self.needs_network(window, size):
            return []
        visible = Region(int(window.top), int(window.bottom) + 1, int(window.left), int(window.right) + 1,
                         self.height, self.width)
        return [region for region in self._encoded.regions if region.overlap(visible)]

    def encode(self, region: Region) -> None:
        """Encodes a region ahead of `render`, unless its latent is kept."""
        self._encoded.latent(region)
