"""What an evaluation protocol fixes: how HR is cut, where LR comes from, and which pixels and channels are compared."""
import math
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from common.registry import Registry
from common.scales import AnyScale, factors, scale_text
from utils import UserError

PROTOCOLS = Registry('protocol')
OWN_LR, PIL_LR = 'LR_bicubic', 'pil_bicubic'  # the two sources of LR images, as results.json writes them
LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)  # of BT.601, as MATLAB's rgb2ycbcr scales it
LUMA_OFFSET = 16 / 256


def register(protocol: type['Protocol']) -> type['Protocol']:
    """Decorator that registers a protocol under its `name`. A name that is taken raises ValueError."""
    return PROTOCOLS.register(protocol.name)(protocol)


def make(name: str) -> 'Protocol':
    """The protocol of a name. Raises: SpecError that lists the choices."""
    return PROTOCOLS.make_named(name, 'protocol')


def luma(rgb: Tensor) -> Tensor:
    """Y of BT.601: RGB (3, H, W) in [0, 1] → (1, H, W) in [16/256, 235.859/256]."""
    return torch.einsum('chw,c->hw', rgb, rgb.new_tensor(LUMA)).unsqueeze(0) + LUMA_OFFSET


class Protocol(ABC):
    """The rules of one evaluation protocol; what most protocols have in common is here and can be overridden.

    Attributes:
        name: in configs and results.
        prepared_scales: factors at which the LR images that come with a set are used.
        needs_own_lr: whether a missing folder of these LR images is an error; otherwise Pillow makes them.
    """
    name: str
    prepared_scales: tuple[int, ...] = (2, 3, 4)
    needs_own_lr = True

    @abstractmethod
    def border(self, scale: float) -> int:
        """Pixels removed at each side of the images before they are compared; `scale` is the larger factor of the axes."""

    @abstractmethod
    def channels(self, rgb: Tensor) -> Tensor:
        """The channels compared: RGB (3, H, W) in [0, 1] → (C, H, W)."""

    def lr_size(self, size: tuple[int, int], scale: AnyScale) -> tuple[int, int]:
        """(height, width) of the LR image of an HR image of this size: floor(side / scale)."""
        # where the division is exact it stays so
        height, width = (math.floor(side / factor + 1e-9) for side, factor in zip(size, factors(scale)))
        return height, width

    def hr_size(self, size: tuple[int, int], scale: AnyScale) -> tuple[int, int]:
        """(height, width) to which an HR image of this size is cut from the top left: round(LR side · scale)."""
        height, width = (round(side * factor) for side, factor in zip(self.lr_size(size, scale), factors(scale)))
        return height, width

    def lr_source(self, folder: Path | None, scale: AnyScale) -> str:
        """Where LR images of this scale come from: OWN_LR, from `folder`/X{scale}, or PIL_LR.

        Args:
            folder: of the LR images that come with the set; None where they are not to be used.
        Raises: UserError when the folder of this scale is missing, and the protocol needs it.
        """
        if folder is None or isinstance(scale, str) or scale not in self.prepared_scales:
            return PIL_LR
        scale_folder = folder / f'X{int(scale)}'
        if scale_folder.is_dir():
            return OWN_LR
        if not self.needs_own_lr:
            return PIL_LR
        raise UserError(f"{scale_folder}: no such folder of LR images; set 'lr: pil' to make them by Pillow's bicubic")

    def check_size(self, size: tuple[int, int], scale: AnyScale) -> None:
        """Raises UserError when the border leaves nothing of images of this (height, width)."""
        removed = self.border(max(factors(scale)))
        if min(size) <= 2 * removed:
            raise UserError(f"an image of {size[0]}x{size[1]} is too small for protocol '{self.name}' at scale "
                            f'{scale_text(scale)}, which removes {removed} pixels at each side')

    def inside(self, rgb: Tensor, scale: AnyScale) -> Tensor:
        """An image (3, H, W) without the border. Raises: UserError when nothing is left."""
        height, width = rgb.shape[1:]
        self.check_size((height, width), scale)
        removed = self.border(max(factors(scale)))
        return rgb[:, removed:height - removed, removed:width - removed]

    def compared(self, rgb: Tensor, scale: AnyScale) -> Tensor:
        """What is compared: RGB (3, H, W) in [0, 1] → (C, H', W') float64. Raises: UserError when nothing is left."""
        return self.channels(self.inside(rgb, scale).double())
