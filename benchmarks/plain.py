"""MSIT's queries as the paper's authors run them: the reference that the other benchmarks compare with.

    python -m benchmarks.plain -model MSIT-S -input a.png -scale 4 -output b.png

upscales an image so, which `benchmarks/peers.py` times. Every query gathers its K² keys and K² values with `grid_sample`,
computes its positional bias from all offsets, and multiplies the K²·C weighted values by the first layer of the decoder.
Nothing is shared between queries.

Shapes: B batch, C base_dim, H×W the LR grid, Q queries, K² = (2r + 1)² keys of a query, h heads of d = C/h channels.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import models
from common import coords
from common.arrays import to_tensor
from common.cli import Parser, choose_device, run
from common.ranges import real_number
from imaging import read_rgb, save_image, to_image
from models.decoders.msit import MSIT
from utils import UserError, check_output

CHUNK = 30_000  # queries at a time, as in the authors' tests


def plain_convs(model: MSIT) -> MSIT:
    """Puts PyTorch's own convolution, in its default layout, in the place of each of ours, in place."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and type(child) is not nn.Conv2d:
                plain = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, padding=child.padding,
                                  groups=child.groups, bias=child.bias is not None)
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)
    return model.to(memory_format=torch.contiguous_format)


def encode(model: MSIT, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised LR (B, 3, H, W) → query map (its own keys), value map (B, C, H, W each), and the LR itself."""
    z = model.msno(model.widen(model.encoder.features(lr)))
    return model.mssa.query_map(z), model.mssa.value_map(z), lr


def query(model: MSIT, maps: tuple[Tensor, Tensor, Tensor], coord: Tensor, cell: Tensor) -> Tensor:
    """Normalised RGB: maps of `encode`, (B, Q, 2), (B, 2) → (B, Q, 3)."""
    query_map, value_map, lr = maps
    height, width = lr.shape[2:]
    heads, radius = model.mssa.heads, model.mssa.radius
    pixel = torch.stack([coords.nearest_index(coord[..., 0], height), coords.nearest_index(coord[..., 1], width)], -1)
    window = coords.pixel_offsets(radius, coord.device)                              # (K², 2)
    size = torch.tensor([height, width], device=coord.device)
    key_coord = (2 * (pixel.unsqueeze(2) + window) + 1).double() / size - 1          # (B, Q, K², 2)

    def sample(x: Tensor, at: Tensor, mode: str, padding: str = 'zeros') -> Tensor:
        return F.grid_sample(x, at.flip(-1).to(x.dtype), mode=mode, padding_mode=padding, align_corners=False)

    keys = rearrange(sample(query_map, key_coord, 'nearest'), 'b (h d) q k -> b q h k d', h=heads)
    values = rearrange(sample(value_map, key_coord, 'nearest'), 'b (h d) q k -> b q k h d', h=heads)
    queries = rearrange(sample(query_map, coord.unsqueeze(1), 'bilinear'), 'b (h d) 1 q -> b q h 1 d', h=heads)

    delta = ((coord.double().unsqueeze(2) - key_coord) * size).to(lr.dtype)          # (B, Q, K², 2)
    angle = rearrange(delta.unsqueeze(-1) * model.mssa.position_bias.frequencies, 'b q k yx f -> b q k (yx f)')
    bias = model.mssa.position_bias.proj(torch.cat([angle.sin(), angle.cos()], -1))  # (B, Q, K², h)

    logits = (queries @ keys.transpose(-1, -2)).squeeze(3) / keys.shape[-1] ** 0.5   # (B, Q, h, K²)
    attention = (logits + bias.transpose(2, 3)).softmax(-1)
    weighted = values * rearrange(attention, 'b q h k -> b q k h 1')
    relative_cell = (cell * size).to(lr.dtype).unsqueeze(1).expand(-1, coord.shape[1], -1)
    decoded = model.imnet.layers(torch.cat([weighted.flatten(2), relative_cell], -1))
    skip = sample(lr, coord.unsqueeze(1), 'bilinear', 'border')                      # (B, 3, 1, Q)
    return decoded + rearrange(skip, 'b c 1 q -> b q c')


@torch.no_grad()
def upscale(model: MSIT, lr: Tensor, size: tuple[int, int]) -> Tensor:
    """What `model.upscale(lr, size)` returns: (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1]."""
    maps = encode(model, model.normalise_lr(lr))
    grid = coords.make_grid(*size, lr.device).flatten(0, 1)                          # (h·w, 2)
    cell = coords.make_cell(*size, lr.device).expand(len(lr), 2)
    parts = [query(model, maps, part.expand(len(lr), -1, 2), cell) for part in grid.split(CHUNK)]
    rgb = model.denormalise_rgb(torch.cat(parts, 1)).clamp(0, 1)
    return rearrange(rgb, 'b (h w) c -> b c h w', h=size[0])


def main() -> None:
    parser = Parser(prog='python -m benchmarks.plain', description='Upscales an image as the authors of MSIT do.')
    parser.option('model', required=True, metavar='FILE', help='weights of an MSIT, as of demo.py')
    parser.option('input', type=Path, required=True, metavar='FILE', help='an image')
    parser.option('scale', type=real_number(1, 100), required=True, metavar='S', help='factor')
    parser.option('output', type=Path, required=True, metavar='FILE', help='PNG file to write')
    parser.device_options()
    options = parser.parse_args()
    check_output(options.output, ('.png',))
    device = choose_device(options)
    model = models.load(options.model, device)
    if not isinstance(model, MSIT):
        raise UserError(f'-model {options.model}: expected an MSIT; of other models there is no plain path')
    lr = to_tensor(read_rgb(options.input)).unsqueeze(0).to(device)                  # (1, 3, H, W)
    height, width = (round(options.scale * side) for side in lr.shape[2:])
    rgb = upscale(plain_convs(model), lr, (height, width))[0]
    save_image(to_image(rgb), options.output)


if __name__ == '__main__':
    run(main)
