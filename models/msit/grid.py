"""MSIT's queries on a grid, an order of magnitude faster than one by one, and exact.

All queries whose nearest LR pixel is p attend to the same K² keys and values. With the decoder's first layer W1 cut by key
k and head h,

    hidden(q) = Σ_k,h a(q, k, h) · u(p, k, h) + W1_cell · cell + b,    u(p, k, h) = W1(k, h) · v(p + k, h)

u is computed once per LR pixel. So are the products of the keys with the 3×3 pixels that bilinear samples of the query map
come from, of which the logits are weighted sums. The positional bias is a function of the row plus one of the column.

Where an LR pixel has a single query, u would cost more than that query's own product with W1, which is taken instead.

Shapes: B batch, C base_dim, r window radius, K = 2r + 1, h heads of d = C/h channels, M width of the first layer; in a block
P = I·J LR pixels (I rows, J columns) with S = m·n queries each.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from models.coords import bilinear_taps, nearest_window, pixel_offsets
from models.layers import MLP
from models.msit.mssa import LocalAttention, Maps

CPU_PIXELS, CPU_QUERIES = 32, 2048  # of a block: what a CPU's caches hold


class Lines(NamedTuple):
    """Output rows, or columns, for the I rows (columns) of LR pixels that have m of them each.

    lr: (I,) the LR lines. out: (I, m) the output lines, positions in the given coordinates.
    taps: (I, m, 3) bilinear weights of the LR lines before, at and after. bias: (I, m, h·K²) their part of the bias.
    """
    lr: Tensor
    out: Tensor
    taps: Tensor
    bias: Tensor

    def part(self, start: int, stop: int) -> 'Lines':
        return Lines(*(tensor[start:stop] for tensor in self))


def decode_grid(mssa: LocalAttention, imnet: MLP, maps: Maps, rows: Tensor, columns: Tensor, shared: Tensor | None,
                memory: int) -> Tensor:
    """MSSA and the decoder at the crossings of rows and columns.

    Args:
        rows, columns: coordinates y and x, (h,) and (w,) float64, increasing.
        shared: (B, S) inputs of the decoder that all queries of a picture share, or None.
        memory: bytes to stay within, the result aside.
    Returns: (B, h, w, 3).
    """
    decoder = GridDecoder(mssa, imnet, maps, shared)
    by_row, by_column = decoder.group_lines(rows, columns)
    batch = len(maps.values) // ((maps.region.bottom - maps.region.top + 2 * mssa.padding)
                                 * (maps.region.right - maps.region.left + 2 * mssa.padding))
    out = rows.new_empty(batch, len(rows), len(columns), 3, dtype=torch.promote_types(maps.values.dtype, torch.float32))
    for ys in by_row:
        for xs in by_column:
            pixels = decoder.block_pixels(ys.out.shape[1] * xs.out.shape[1], memory)
            j = -(-len(xs.lr) // -(-len(xs.lr) // pixels))  # blocks of a row of LR pixels are equally long
            i = max(1, pixels // j)
            for y in range(0, len(ys.lr), i):
                for x in range(0, len(xs.lr), j):
                    block_y, block_x = ys.part(y, y + i), xs.part(x, x + j)
                    for picture in range(batch):
                        rgb = decoder(picture, block_y, block_x)                     # (I·m, J·n, 3)
                        out[picture, block_y.out.view(-1, 1), block_x.out.flatten()] = rgb.to(out)
    return out


class GridDecoder:
    """Decodes blocks of LR pixels with equally many queries each; holds what all blocks share."""

    def __init__(self, mssa: LocalAttention, imnet: MLP, maps: Maps, shared: Tensor | None):
        self.mssa, self.imnet, self.maps = mssa, imnet, maps
        self.channels = maps.values.shape[1]
        self.exact = torch.promote_types(maps.values.dtype, torch.float32)  # of logits
        self.keys = (2 * mssa.radius + 1) ** 2                                       # K²
        weight, offset = imnet.first_layer(self.keys * self.channels, shared)        # (M, K²·C)
        self.weight, self.offset = weight, offset.expand(len(offset) if offset.ndim == 3 else 1, 1, -1)
        split = {'k': self.keys, 'h': mssa.heads}
        self.weight_by_head = rearrange(weight, 'm (k h d) -> (h k) d m', **split).contiguous()
        self.values_by_head = rearrange(maps.values, 'row (h d) -> h row d', h=mssa.heads).contiguous()

    def block_pixels(self, queries: int, memory: int) -> int:
        """P for LR pixels with S queries each."""
        per_pixel = 4 * (self.keys * (self.mssa.heads * len(self.weight) + 4 * self.channels)
                         + queries * (4 * self.keys * self.mssa.heads + 3 * len(self.weight)))
        pixels = memory // per_pixel
        if self.weight.device.type == 'cpu':
            pixels = min(pixels, CPU_PIXELS, CPU_QUERIES // queries)
        return max(1, pixels)

    def group_lines(self, rows: Tensor, columns: Tensor) -> tuple[list[Lines], list[Lines]]:
        """Output rows and columns by how many of them each LR row and column has."""
        region, radius = self.maps.region, self.mssa.padding
        index_y, delta_y = nearest_window(rows, region.height, radius)               # (h,), (h, 2·padding + 1)
        index_x, delta_x = nearest_window(columns, region.width, radius)
        inner = slice(radius - self.mssa.radius, radius + self.mssa.radius + 1)
        bias_y, bias_x = self.mssa.position_bias.axes(delta_y[:, inner], delta_x[:, inner])          # (h, K, heads)
        size = bias_y.shape[1]
        bias_y = bias_y.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, size).flatten(1)             # (h, heads·K²)
        bias_x = bias_x.transpose(1, 2).unsqueeze(2).expand(-1, -1, size, -1).flatten(1)
        middle = slice(radius - 1, radius + 2)
        scale = (self.channels // self.mssa.heads) ** -0.5  # of the logits
        return (group(index_y, bilinear_taps(delta_y[:, middle]) * scale, bias_y),
                group(index_x, bilinear_taps(delta_x[:, middle]), bias_x))

    def __call__(self, picture: int, ys: Lines, xs: Lines) -> Tensor:
        """RGB without the skip of the queries of I×J LR pixels: (I·m, J·n, 3)."""
        y, x = ys.lr.view(-1, 1, 1), xs.lr.view(1, -1, 1)                            # (I, 1, 1), (1, J, 1)
        window, near = pixel_offsets(self.mssa.radius, y.device), pixel_offsets(1, y.device)
        rows, near_rows = (
            self.mssa.row_index(self.maps.region, picture, y + offset[:, 0], x + offset[:, 1]).flatten(0, 1)
            for offset in (window, near))                                            # (P, K²), (P, 9)
        with torch.autocast(y.device.type, enabled=False):  # frequencies up to 1023: half precision would not do
            gram = self.gram(near_rows, rows)                                        # (P, 9, h·K²)
            bias = ys.bias[:, None, :, None] + xs.bias[None, :, None]                # (I, J, m, n, h·K²)
            taps = ys.taps[:, None, :, None, :, None] * xs.taps[None, :, None, :, None]              # (I, J, m, n, 3, 3)
            bias, taps = (tensor.flatten(2, 3).flatten(0, 1) for tensor in (bias, taps.flatten(4)))  # (P, S, …)
            logits = torch.baddbmm(bias, taps, gram)                        # (P, S, h·K²)
            attention = logits.unflatten(2, (self.mssa.heads, -1)).softmax(3)
        x = self.first_layer(picture, rows, attention.flatten(2))                    # (P, S, M)
        return rearrange(self.imnet.layers[1:](x), '(i j) (m n) c -> (i m) (j n) c', i=len(ys.lr), m=ys.out.shape[1])

    def gram(self, near_rows: Tensor, rows: Tensor) -> Tensor:
        """Products, for each head, of the 3×3 query pixels with the K² keys: rows (P, 9) and (P, K²) → (P, 9, h·K²)."""
        queries, keys = (F.embedding(index, source).to(self.exact).unflatten(2, (self.mssa.heads, -1)) for index, source in
                         ((near_rows, self.maps.queries), (rows, self.maps.keys)))   # (P, 9, h, d), (P, K², h, d)
        gram = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1)                    # (P, h, 9, K²)
        return gram.transpose(1, 2).flatten(2)

    def first_layer(self, picture: int, rows: Tensor, attention: Tensor) -> Tensor:
        """W1 · (weighted values, cell) + b: rows (P, K²), attention (P, S, h·K²) → (P, S, M)."""
        pixels, queries = attention.shape[:2]
        offset = self.offset[picture % len(self.offset)]                             # (1, M)
        if queries == 1:
            values = F.embedding(rows, self.maps.values).unflatten(2, (self.mssa.heads, -1))         # (P, K², h, d)
            weights = attention.view(pixels, self.mssa.heads, -1, 1).transpose(1, 2).to(values.dtype)
            return (F.linear((weights * values).flatten(1), self.weight) + offset).unsqueeze(1)
        values = self.values_by_head.index_select(1, rows.T.flatten()).view(-1, pixels, self.weight_by_head.shape[1])
        u = torch.bmm(values, self.weight_by_head)                                   # (h·K², P, M)
        return torch.baddbmm(offset.expand(pixels, queries, -1), attention.to(u.dtype), u.transpose(0, 1))


def group(index: Tensor, taps: Tensor, bias: Tensor) -> list[Lines]:
    """Output lines (N, …), whose nearest LR lines `index` (N,) do not decrease, by how many share an LR line."""
    lines, counts = index.unique_consecutive(return_counts=True)                     # (number of LR lines,)
    first = counts.cumsum(0) - counts
    groups = []
    for count in counts.unique().tolist():
        mine = counts == count
        out = first[mine].unsqueeze(1) + torch.arange(count, device=index.device)    # (I, m)
        groups.append(Lines(lines[mine], out, taps[out].to(bias), bias[out]))
    return groups
