"""Generic layers: the MLP decoder, the positional bias of local attention, and bilinear sampling.

Shapes: B batch, Q queries, C channels, H×W an image or map, h×w a grid of queries.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.coords import Region, upload
from models.registries import BIASES, MLPS, Widths

ACTIVATIONS = {'relu': nn.ReLU, 'gelu': nn.GELU}


@MLPS.register('mlp', provided=('in_dim',))
class MLP(nn.Module):
    """Linear layers with an activation between them, (…, in_dim) → (…, out_dim).

    Args:
        in_dim: numbers per query; set by the model, not by the config.
        out_dim: 3 for RGB.
        hidden_list: widths of the hidden layers.
        act: 'relu' or 'gelu' (the exact one).
    """

    def __init__(self, *, in_dim: int, out_dim: int = 3, hidden_list: Widths, act: str = 'relu'):
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

    def forward(self, x: Tensor, common: Tensor | None = None) -> Tensor:
        """(B, Q, in_dim) → (B, Q, out_dim).

        `common` (B, S) holds the last S inputs if they are equal for all queries of an image. They then pass the first
        layer once per image, and x (B, Q, in_dim − S) need not be copied to join them.
        """
        weight, offset = self.first_layer(x.shape[-1], common)
        return self.layers[1:](F.linear(x, weight) + offset)

    def first_layer(self, query_dim: int, common: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first layer in two parts: the weights of the first `query_dim` inputs, and the other terms as an offset.

        Returns: weight (hidden, query_dim); offset (hidden,), or (B, 1, hidden) with `common` inputs (B, S).
        """
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        if common is None:
            return first.weight, first.bias
        weight, common_weight = first.weight.split([query_dim, common.shape[-1]], 1)
        return weight, F.linear(common, common_weight, first.bias).unsqueeze(1)


@BIASES.register('posenc', provided=('heads',))
class PositionalBias(nn.Module):
    """Positional bias of local attention: one number per head for each offset between a query and a key.

    Shapes: K keys along an axis (2r + 1), F frequencies, h heads.

    Linear map of [sin(ω·δy), sin(ω·δx), cos(ω·δy), cos(ω·δx)], ω = 2^l − 1, l linearly spaced from 0 to posenc_scale.

    Every feature depends on one axis, so the bias is a function of δy plus a function of δx: with K² keys around a query
    only 2K of them are evaluated. The sum is exact.

    Args:
        heads: h.
        enc_dims: 4·F, the features.
        posenc_scale: upper end of l.
        posenc_type, hidden_dims, gamma: in released configs; only 'sinusoid' exists, the other two have no effect.
    """

    frequencies: Tensor

    def __init__(self, *, heads: int, posenc_type: str = 'sinusoid', posenc_scale: float = 10, enc_dims: int = 64,
                 hidden_dims: int | None = None, gamma: float | None = None):
        super().__init__()
        if posenc_type != 'sinusoid':
            raise ValueError(f"posenc_type is '{posenc_type}', expected 'sinusoid'")
        if enc_dims < 4 or enc_dims % 4:
            raise ValueError(f'enc_dims is {enc_dims}, expected a multiple of 4')
        self.register_buffer('frequencies', 2 ** torch.linspace(0, posenc_scale, enc_dims // 4) - 1, persistent=False)
        self.proj = nn.Linear(enc_dims, heads)

    def _apply(self, fn: Callable, recurse: bool = True) -> 'PositionalBias':
        """half() and bfloat16() do not convert the frequencies: a phase is ω·δ, and ω goes up to 1023."""
        frequencies = self.frequencies
        super()._apply(fn, recurse)
        self.frequencies = frequencies.to(self.proj.weight.device)
        return self

    def forward(self, delta_y: Tensor, delta_x: Tensor) -> tuple[Tensor, Tensor]:
        """The two functions whose sum is the bias: offsets (…, K) of each axis, float64 → (…, K, h) each.

        Offsets are in units of half an LR pixel.
        """
        weight = self.proj.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(weight.device.type, enabled=False):  # half precision would lose the high frequencies
            sin_y, sin_x, cos_y, cos_x = weight.to(exact).chunk(4, 1)                # (h, F) each
            angle_y = upload(delta_y, weight, exact).unsqueeze(-1) * self.frequencies    # (…, K, F)
            angle_x = upload(delta_x, weight, exact).unsqueeze(-1) * self.frequencies
            bias_y = torch.cat([angle_y.sin(), angle_y.cos()], -1) @ torch.cat([sin_y, cos_y], 1).T
            bias_x = torch.cat([angle_x.sin(), angle_x.cos()], -1) @ torch.cat([sin_x, cos_x], 1).T
            return bias_y, bias_x + self.proj.bias.to(exact)


def sample_bilinear(image: Tensor, coord: Tensor, padding: str) -> Tensor:
    """Bilinear samples of an image at points (`align_corners=False`).

    Args:
        image: (B, C, H, W).
        coord: (B, Q, 2), (y, x) in [−1, 1].
        padding: 'zeros' or 'border', what samples read beyond the centres of the edge pixels.
    Returns: (B, Q, C).
    """
    dtype = torch.promote_types(image.dtype, torch.float32)  # half precision would move a query by a tenth of a pixel
    xy = upload(coord.flip(-1), image, dtype).unsqueeze(1)                           # (B, 1, Q, 2)
    samples = F.grid_sample(image.to(dtype), xy, mode='bilinear', padding_mode=padding, align_corners=False)
    return samples[:, :, 0].transpose(1, 2)                                          # (B, C, 1, Q) → (B, Q, C)


def bilinear_grid(image: Tensor, region: Region, rows: Tensor, columns: Tensor, padding: str = 'border') -> Tensor:
    """Bilinear samples of an image at the crossings of rows and columns.

    Args:
        image: (B, C, H, W), a region of the image.
        rows, columns: (h,) and (w,) float64, coordinates y and x in the image.
        padding: 'zeros' or 'border', what samples read beyond the centres of the edge pixels.
    Returns: (B, h, w, C).
    """
    zeros = int(padding == 'zeros')
    image = F.pad(image, (zeros,) * 4)
    top, bottom, down = _linear_samples(image, rows, region.image_height, region.top, zeros)
    left, right, along = _linear_samples(image, columns, region.image_width, region.left, zeros)
    lines = torch.lerp(image[:, :, top], image[:, :, bottom], down.unsqueeze(1))     # (B, C, h, W)
    samples = torch.lerp(lines[..., left], lines[..., right], along)                 # (B, C, h, w)
    return samples.permute(0, 2, 3, 1)


def _linear_samples(image: Tensor, coord: Tensor, n: int, start: int, zeros: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of an n-pixel axis → the pixel before, the pixel after, and the weight of the latter, on `image`'s device.

    Pixels are counted in a map that begins with pixel `start` and has `zeros` zero pixels added at both ends. Beyond these
    the outermost pixel is repeated.
    """
    pixel = ((coord + 1) * n - 1) / 2
    low = pixel.floor()
    first, second = low.clamp(-zeros, n - 1 + zeros), (low + 1).clamp(-zeros, n - 1 + zeros)
    around = upload(torch.stack([first, second]).long() - start + zeros, image)
    return around[0], around[1], upload(pixel - low, image, image.dtype)
