"""The image that an upscaled one is put into, part by part, in the bit depth of its file."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imaging import tiff
from imaging.encoding import check_library, dropped, write_deep, write_pillow
from imaging.formats import DEFAULTS, WriteOptions, check_target
from imaging.frame import Frame, full_scale
from imaging.metadata import with_size
from utils import atomic_path

_TYPES: dict[int, np.dtype] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.float32)}


class Canvas:
    """An image of height × width to be written to `path`, with the mode, depth, metadata and transparency of `like`.

    Beside it nothing of its size is held. `notes` are lines for the user about what the format does not hold.
    """

    def __init__(self, path: str | Path, height: int, width: int, *, like: Frame,
                 options: WriteOptions = DEFAULTS) -> None:
        """
        Args:
            like: the image that is upscaled; see `colour.suited` for its profile.
        Raises: UserError when the format cannot hold the image.
        """
        self.format = check_target(path, height, width, options=options)
        self.path, self.height, self.width, self.options = Path(path), height, width, options
        self.metadata, self.duration = with_size(like.metadata, height, width), like.duration
        self.notes: list[str] = []
        wanted = options.bits or like.bits
        bits = max(bits for bits in self.format.bits if bits <= wanted)
        check_library(self.path, self.format, bits)
        self._type = _TYPES[bits]
        self._alpha = None if like.alpha is None else _image(like.alpha)
        keeps_alpha = like.alpha is not None and 'RGBA' in self.format.modes
        self._background = None
        if like.is_transparent and not keeps_alpha:
            self._background = torch.tensor(options.background).view(3, 1, 1) / 255
            self.notes.append(f'{self.format.name} holds no transparency: transparent pixels are blended onto '
                              f'{",".join(map(str, options.background))}')
        elif not keeps_alpha:
            self._alpha = None
        mode = 'L' if like.is_grey and (self._background is None or len(set(options.background)) == 1) else 'RGB'
        mode += 'A' if keeps_alpha else ''
        self.mode = mode if mode in self.format.modes else mode.replace('L', 'RGB')
        if lost := dropped(self.format, self.metadata):
            self.notes.append(f'{self.format.name} holds no {" and ".join(lost)} of this size: left out')
        self.pixels: Image.Image | np.ndarray  # (H, W, C)
        if self._type == np.uint8 and self.format.name != 'TIFF':
            self.pixels = Image.new(self.mode, (width, height))
        else:
            self.pixels = np.zeros((height, width, len(self.mode)), self._type)

    def put(self, rows: slice, columns: slice, rgb: Tensor) -> None:
        """Sets a part.

        Args:
            rgb: (3, h, w) in [0, 1], for the h rows and w columns.
        """
        rgb = rgb.detach().to('cpu', torch.float32)
        alpha = None if self._alpha is None else self._part_of_alpha(self._alpha, rows, columns)
        if self._background is not None and alpha is not None:
            rgb = torch.lerp(self._background, rgb, torch.from_numpy(alpha))
        channels = rgb.mean(0, keepdim=True) if self.mode[0] == 'L' else rgb
        values = _quantised(channels.movedim(0, -1).numpy(), self._type)             # (h, w, C)
        if 'A' in self.mode and alpha is not None:
            values = np.concatenate([values, _quantised(alpha, self._type)[..., None]], -1)
        if isinstance(self.pixels, Image.Image):
            part = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
            self.pixels.paste(part, (columns.start or 0, rows.start or 0))
        else:
            self.pixels[rows, columns] = values

    def save(self) -> None:
        """Writes the file; a reader sees it whole, or the one before. Raises WriteError."""
        with atomic_path(self.path) as temporary:
            if isinstance(self.pixels, Image.Image):
                write_pillow(self.pixels, temporary, self.format, self.metadata, self.options)
            elif self.format.name == 'TIFF':
                with tiff.Writer(temporary, self.pixels.nbytes) as writer:
                    writer.add(self.pixels, self.metadata, several=False)
            else:
                write_deep(self.pixels, temporary, self.format, self.metadata)

    def _part_of_alpha(self, alpha: Image.Image, rows: slice, columns: slice) -> np.ndarray:
        """The transparency of a part, by Pillow's bicubic: (h, w) of float32 in [0, 1]."""
        top, bottom, _ = rows.indices(self.height)
        left, right, _ = columns.indices(self.width)
        across, down = alpha.width / self.width, alpha.height / self.height
        part = alpha.resize((right - left, bottom - top), Image.Resampling.BICUBIC,
                            box=(left * across, top * down, right * across, bottom * down))
        values = np.asarray(part)
        return np.clip(values / np.float32(full_scale(values.dtype)), 0, 1)


def _image(alpha: np.ndarray) -> Image.Image:
    """Transparency as an image that Pillow resamples: of 8 bits, or of floating-point numbers from 0 to 1."""
    return Image.fromarray(alpha if alpha.dtype == np.uint8 else (alpha / np.float32(full_scale(alpha.dtype))))


def _quantised(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float32 in [0, 1] → values of a type, rounded."""
    return values if dtype.kind == 'f' else np.rint(values * np.float32(full_scale(dtype))).astype(dtype)
