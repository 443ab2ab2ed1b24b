"""Training samples from HR images alone: random-scale crops, LR by Pillow's bicubic."""
import numpy as np
from torch.utils.data import Dataset

from common.arrays import resize_bicubic
from datasets.degraded import make_degradation
from datasets.registry import WRAPPERS, Scale, Side
from datasets.sampling import Draw, make_sample, pad_to, random_crop, random_dihedral


@WRAPPERS.register('sr-implicit-downsampled', provided=('dataset', 'data_root'))
class Downsampled(Dataset):
    """HR crops of round(inp_size·s)² with s ~ U(scale_min, scale_max), and their bicubic LR of inp_size².

    A scale whose crop does not fit the smallest image of its batch or sample is lowered until it fits. An image smaller than
    inp_size is extended to it by mirroring.

    Args:
        inp_size: LR side, pixels.
        scale_min, scale_max: range of s.
        cascade: upper ends of factors f ~ U(scale_min, ·): s is the product of the first j of them, with all j equally
            likely (CLIT's cumulative training). None: s ~ U(scale_min, scale_max).
        scale_per: draw one s per 'batch' (MSIT, CLIT) or per 'sample' (LIIF, LTE).
        augment: random flips and 90° rotations.
        rescale_min: below 1, the HR crop comes from its image shrunk (Pillow's bicubic) by r ~ U(rescale_min, 1), or as far
            as the size of the image allows. Crops of compressed photographs become sharper and have fewer artefacts.
        sample_q: HR pixels to query, drawn without replacement.
        degrade: what else happens to the LR crops, such as {jpeg: [60, 95]}; see `datasets.degraded.Degradation`.
    """

    def __init__(self, *, dataset, data_root, inp_size: Side = 48, scale_min: Scale = 1, scale_max: Scale = 4,
                 cascade: list[Scale] | None = None, scale_per: str = 'batch', augment: bool = True,
                 rescale_min: float = 1, sample_q: int = 2304, degrade: dict | None = None):
        if not hasattr(dataset, 'size'):
            raise ValueError("needs a dataset of single images, such as 'image-folder'")
        if any(not 1 <= scale_min <= upper < float('inf') for upper in cascade or [scale_max]):
            raise ValueError(f'expected 1 <= scale_min <= scale_max, got {scale_min} and {cascade or scale_max}')
        if scale_per not in ('batch', 'sample'):
            raise ValueError(f"scale_per is {scale_per!r}, expected 'batch' or 'sample'")
        if not 0 < rescale_min <= 1:
            raise ValueError(f'rescale_min must lie in (0, 1], got {rescale_min}')
        if inp_size < 1 or not 1 <= sample_q <= inp_size ** 2:
            raise ValueError(f'sample_q must lie between 1 and inp_size² = {inp_size ** 2}, got {sample_q}')
        self.dataset, self.inp_size, self.augment, self.sample_q = dataset, inp_size, augment, sample_q
        self.scale_range, self.scale_per, self.cascade = (scale_min, scale_max), scale_per, cascade
        self.rescale_min, self._degradation = rescale_min, make_degradation(degrade)

    def __len__(self) -> int:
        return len(self.dataset)

    def draw_scales(self, indices: list[int], rng: np.random.Generator) -> list[tuple[float, bool]]:
        """(scale, whether it was lowered) for each image of a batch."""
        limits = [max(1.0, min(self.dataset.size(index)) / self.inp_size) for index in indices]
        if self.scale_per == 'batch':
            limits = [min(limits)] * len(indices)
            drawn = [self._draw_scale(rng)] * len(indices)
        else:
            drawn = [self._draw_scale(rng) for _ in indices]
        return [(min(scale, limit), scale > limit) for scale, limit in zip(drawn, limits)]

    def _draw_scale(self, rng: np.random.Generator) -> float:
        """A scale, before it is lowered."""
        if not self.cascade:
            return rng.uniform(*self.scale_range)
        steps = rng.integers(len(self.cascade)) + 1
        return float(np.prod([rng.uniform(self.scale_range[0], upper) for upper in self.cascade[:steps]]))

    def _draw_extent(self, side: int, image: np.ndarray, rng: np.random.Generator) -> int:
        """Side of the square in the image that becomes the crop of `side`, in pixels; draws only if crops are rescaled."""
        if self.rescale_min == 1:
            return side
        return min(round(side / rng.uniform(self.rescale_min, 1)), *image.shape[:2])

    def __getitem__(self, draw: Draw) -> dict:
        """One sample; see `make_sample`."""
        rng = np.random.default_rng(draw.seed)
        side = round(self.inp_size * draw.scale)
        image = pad_to(self.dataset[draw.index], side)
        extent = self._draw_extent(side, image, rng)
        rows, columns = random_crop(image.shape[0], image.shape[1], extent, rng)
        crop = image[rows, columns]
        # a contiguous copy, because it is read several times
        hr = np.ascontiguousarray(crop) if extent == side else resize_bicubic(crop, side, side)
        lr = self._degradation.make_lr(hr, self.inp_size, self.inp_size, rng, part=True)
        if self.augment:
            lr, hr = random_dihedral([lr, hr], rng)
        return make_sample(lr, hr, self.sample_q, rng, draw)
