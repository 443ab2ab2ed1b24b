"""Layers that are nobody's invention in particular: the MLP decoder and bilinear sampling of points."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.registry import register
from models.regions import Region

ACTIVATIONS = {'relu': nn.ReLU, 'gelu': nn.GELU}


@register('mlp', provided=('in_dim',))
class MLP(nn.Module):
    """Linear layers with an activation between them, (…, in_dim) → (…, out_dim).

    Args:
        in_dim: numbers per query; given by the model that owns the decoder.
        out_dim: 3 for RGB.
        hidden_list: widths of the hidden layers.
        act: 'relu' or 'gelu' (the exact one).
    """

    def __init__(self, *, in_dim: int, out_dim: int = 3, hidden_list: list[int], act: str = 'relu'):
        super().__init__()
        if act not in ACTIVATIONS:
            raise ValueError(f"act is '{act}', expected one of {', '.join(ACTIVATIONS)}")
        if out_dim < 1 or any(not isinstance(hidden, int) or hidden < 1 for hidden in hidden_list):
            raise ValueError(f'expected widths of at least 1, got hidden_list {hidden_list!r} and out_dim {out_dim!r}')
        layers = []
        for hidden in hidden_list:
            layers += [nn.Linear(in_dim, hidden), ACTIVATIONS[act]()]
            in_dim = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """(B, Q, in_dim) → (B, Q, out_dim).

        `shared` (B, S) are the last S inputs where all queries of an image have the same: they pass the first layer once
        per image, and x (B, Q, in_dim − S) need not be copied to be joined to them.
        """
        own, offset = self.first_layer(x.shape[-1], shared)
        return self.layers[1:](F.linear(x, own) + offset)

    def first_layer(self, own: int, shared: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first layer cut in two: weights (hidden, own) of the inputs of each query, and the rest as an offset.

        Returns: weight; offset (hidden,), or (B, 1, hidden) with `shared` inputs (B, S).
        """
        first = self.layers[0]
        if shared is None:
            return first.weight, first.bias
        weight, common = first.weight.split([own, shared.shape[-1]], 1)
        return weight, F.linear(shared, common, first.bias).unsqueeze(1)


def sample_bilinear(image: Tensor, coord: Tensor, padding: str) -> Tensor:
    """Bilinear samples of an image at points (`align_corners=False`).

    Args:
        image: (B, C, H, W).
        coord: (B, Q, 2), (y, x) in [−1, 1].
        padding: 'zeros' or 'border', what lies beyond the edge pixels' centres.
    Returns: (B, Q, C).
    """
    dtype = torch.promote_types(image.dtype, torch.float32)  # half precision would move a query by a tenth of a pixel
    xy = coord.flip(-1).to(dtype).unsqueeze(1)                                       # (B, 1, Q, 2)
    samples = F.grid_sample(image.to(dtype), xy, mode='bilinear', padding_mode=padding, align_corners=False)
    return samples[:, :, 0].transpose(1, 2)                                          # (B, C, 1, Q) → (B, Q, C)


def bilinear_grid(image: Tensor, region: Region, rows: Tensor, columns: Tensor, padding: str = 'border') -> Tensor:
    """Bilinear samples of an image at the crossings of rows and columns.

    Args:
        image: (B, C, H, W), a region of the image.
        rows, columns: (h,) and (w,) float64, coordinates y and x in the image.
        padding: 'zeros' or 'border', what lies beyond the edge pixels' centres.
    Returns: (B, h, w, C).
    """
    zeros = int(padding == 'zeros')
    image = F.pad(image, (zeros,) * 4)
    top, bottom, down = linear_samples(rows, region.height, region.top, zeros)
    left, right, along = linear_samples(columns, region.width, region.left, zeros)
    lines = torch.lerp(image[:, :, top], image[:, :, bottom], down.to(image.dtype).unsqueeze(1))     # (B, C, h, W)
    samples = torch.lerp(lines[..., left], lines[..., right], along.to(image.dtype))                 # (B, C, h, w)
    return samples.permute(0, 2, 3, 1)


def linear_samples(coord: Tensor, n: int, start: int, zeros: int) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) coordinates of an axis → the pixels on both sides, counted from `start` on, and the weight of the second.

    Beyond the n pixels are as many `zeros`, which come first when counting, and further on the last of all these.
    """
    pixel = ((coord + 1) * n - 1) / 2
    low = pixel.floor()
    first, second = (side.clamp(-zeros, n - 1 + zeros).long() - start + zeros for side in (low, low + 1))
    return first, second, pixel - low
