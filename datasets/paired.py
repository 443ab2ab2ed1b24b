"""Training samples from prepared LR/HR pairs: the fixed-scale networks' recipe."""
import numpy as np
from torch.utils.data import Dataset

from datasets.registry import WRAPPERS, Side
from datasets.sampling import Draw, make_sample, pad_to, random_crop, random_dihedral


@WRAPPERS.register('sr-implicit-paired', provided=('dataset', 'data_root'))
class Paired(Dataset):
    """LR crops of inp_size² and the same region of the HR image.

    Args:
        inp_size: LR side, pixels; a smaller LR image is extended to it by mirroring, and its HR image in the same way.
        augment: random flips and 90° rotations.
        sample_q: HR pixels to query, drawn without replacement; None for all.
    """

    def __init__(self, *, dataset, data_root, inp_size: Side = 48, augment: bool = True, sample_q: int | None = None):
        if not hasattr(dataset, 'scale'):
            raise ValueError("needs a dataset of pairs, such as 'paired-image-folders'")
        if inp_size < 1 or (sample_q is not None and not 1 <= sample_q <= inp_size ** 2):
            raise ValueError(f'sample_q must lie between 1 and inp_size² = {inp_size ** 2}, got {sample_q}')
        self.dataset, self.inp_size, self.augment, self.sample_q = dataset, inp_size, augment, sample_q

    def __len__(self) -> int:
        return len(self.dataset)

    def draw_scales(self, indices: list[int], rng: np.random.Generator) -> list[tuple[float, bool]]:
        """(scale, False) for each image of a batch: the pairs fix it."""
        return [(float(self.dataset.scale(index)), False) for index in indices]

    def __getitem__(self, draw: Draw) -> dict:
        """One sample; see `make_sample`."""
        rng = np.random.default_rng(draw.seed)
        scale = int(draw.scale)
        lr, hr = self.dataset[draw.index]
        lr, hr = pad_to(lr, self.inp_size), pad_to(hr, self.inp_size * scale)
        rows, columns = random_crop(lr.shape[0], lr.shape[1], self.inp_size, rng)
        lr, hr = lr[rows, columns], hr[rows.start * scale:rows.stop * scale, columns.start * scale:columns.stop * scale]
        if self.augment:
            lr, hr = random_dihedral([lr, hr], rng)
        return make_sample(lr, hr, self.sample_q, rng, draw)
