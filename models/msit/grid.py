"""MSIT's queries on a grid: exact, and an order of magnitude faster than one by one.

All queries whose nearest LR pixel is p attend to the same K² keys and values. With the decoder's first layer W1 cut by key
k and head h,

    hidden(q) = Σ_k,h a(q, k, h) · u(p, k, h) + W1_cell · cell + b,    u(p, k, h) = W1(k, h) · v(p + k, h)

`JointDecoder` computes u once per LR pixel. So are the products of the keys with the 3×3 pixels that bilinear samples of the
query map come from, of which the logits are weighted sums. Where an LR pixel has a single query, u costs more than the
product of that query with W1, which is then used instead.

`PlaneDecoder` gives every query its own product with W1, unless many queries share an LR pixel. That is d times as many
multiply-adds as its share of the above, but in large matrices: for narrow heads on CPUs, such as MSIT-S's 16 of 4 channels,
products with an inner side of d or K² reach a fifth of the rate.

In both, the positional bias is a function of the row plus one of the column.

Shapes: B batch, C base_dim, r window radius, K = 2r + 1, h heads of d = C/h channels, M width of the first layer; in a block
P = I·J LR pixels (I rows, J columns) with S = m·n queries each.
"""
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from common.coords import nearest_window, pixel_offsets, upload
from models.layers import MLP
from models.memory import peak_bytes
from models.msit.mssa import LocalAttention, Maps
from models.upscale import for_each

CPU_U, CPU_HIDDEN = 5 * 2 ** 18, 2 ** 20  # numbers of u of one head, and of a hidden layer: sized to fit a CPU's caches
CPU_PLANE = 2 ** 12  # queries of a block in planes: they fit into the caches, and their products are large
PLANE_COLUMNS = 64  # J, of a block in planes: long for elementwise steps, and the block reads few LR pixels around it
SHARED = 16  # queries of an LR pixel from which on u was measured to be faster there, for U_PIXELS LR pixels at a time
U_PIXELS = 32
WIDEST_PLANE = 8  # channels of a head up to which planes were measured to be faster (docs/speed.md)
CPU_AMPLE = 2 ** 26  # bytes that are enough for any block of that size
SAMPLE = 256  # queries on which the bytes of a block are measured, at least those of one LR pixel
LONGEST = 64  # output rows (columns) of an LR row (column) decoded together: bounds the queries of an LR pixel


class Lines(NamedTuple):
    """Lines are rows, or columns: I lines of LR pixels, each the nearest one of m output lines.

    lr: (I,) the LR lines. out: (I, m) the output lines, positions in the given coordinates.
    taps: (I, m, 3) bilinear weights of the LR lines before, at and after. bias: (I, m, h, K²) the lines' part of the bias.
    """
    lr: Tensor
    out: Tensor
    taps: Tensor
    bias: Tensor

    def part(self, start: int, stop: int) -> 'Lines':
        return Lines(self.lr[start:stop], self.out[start:stop], self.taps[start:stop], self.bias[start:stop])


def decode_grid(mssa: LocalAttention, imnet: MLP, maps: Maps, rows: Tensor, columns: Tensor, common: Tensor | None,
                memory: int, cell: Tensor | None = None) -> Tensor:
    """MSSA and the decoder at the crossings of rows and columns.

    Args:
        rows, columns: coordinates y and x, (h,) and (w,) float64, increasing, on the host: no device is waited for.
        common: (B, S) inputs of the decoder that are equal for all queries of an image, or None.
        memory: bytes that may be held, besides the result.
        cell: (B, 2), on the host, which decides between two LR pixels that are equally near.
    Returns: (B, h, w, 3).
    """
    kind = PlaneDecoder if PlaneDecoder.suits(mssa, maps) else JointDecoder
    decoder = kind(mssa, imnet, maps, common)
    by_row, by_column = group_lines(mssa, maps, rows, columns, cell)
    region, padding, on_cpu = maps.region, mssa.padding, maps.values.device.type == 'cpu'
    batch = len(maps.values) // ((region.bottom - region.top + 2 * padding) * (region.right - region.left + 2 * padding))
    exact = torch.promote_types(maps.values.dtype, torch.float32)
    out = maps.values.new_empty(batch, len(rows), len(columns), 3, dtype=exact)
    blocks = []
    for ys in by_row:
        for xs in by_column:
            pixels = block_pixels(decoder, ys, xs, memory, on_cpu)
            j = -(-len(xs.lr) // -(-len(xs.lr) // min(pixels, decoder.longest)))  # a line's blocks are equally long
            i = max(1, pixels // j)
            for image, y, x in product(range(batch), range(0, len(ys.lr), i), range(0, len(xs.lr), j)):
                blocks.append((image, ys.part(y, y + i), xs.part(x, x + j)))

    def decode(block: tuple[int, Lines, Lines]) -> None:
        image, ys, xs = block
        out[image, ys.out.view(-1, 1), xs.out.flatten()] = decoder(image, ys, xs).to(out)            # (I·m, J·n, 3)

    for_each(decode, blocks, in_threads=on_cpu)
    return out


def block_pixels(decoder: 'JointDecoder | PlaneDecoder', ys: Lines, xs: Lines, memory: int, on_cpu: bool) -> int:
    """LR pixels of a block, of m·n queries each: as many as fit into the caches of a CPU and into the memory. A few pixels
    are measured where the memory may be too small."""
    queries = ys.out.shape[1] * xs.out.shape[1]
    wanted = max(1, min(len(ys.lr) * len(xs.lr), decoder.most_pixels, decoder.most_queries // queries))
    threads = torch.get_num_threads() if on_cpu else 1
    if on_cpu and memory >= threads * CPU_AMPLE:
        return wanted
    sample = xs.part(0, max(1, SAMPLE // queries))
    held = peak_bytes(decoder, 0, ys.part(0, 1), sample) / len(sample.lr)
    return max(1, min(wanted, int(memory / threads / held)))


class JointDecoder:
    """Decodes blocks of LR pixels with equally many queries each; holds the tensors that all blocks use.

    It takes G heads at a time: one on CPUs, where u of a single head stays in the caches, and all of them elsewhere.
    """

    longest = sys.maxsize

    def __init__(self, mssa: LocalAttention, imnet: MLP, maps: Maps, common: Tensor | None):
        self.mssa, self.imnet, self.maps = mssa, imnet, maps
        self.channels = maps.values.shape[1]
        self.keys = (2 * mssa.radius + 1) ** 2                                       # K²
        self.exact = torch.promote_types(maps.values.dtype, torch.float32)  # of logits
        self.on_cpu = maps.values.device.type == 'cpu'
        weight, offset = imnet.first_layer(self.keys * self.channels, common)        # (M, K²·C)
        self.weight = weight.to(maps.values.dtype)  # autocast would convert it for every block, and not with `out`
        self.offset = offset.expand(len(offset) if offset.ndim == 3 else 1, 1, -1)   # (B or 1, 1, M)
        size = 1 if self.on_cpu else mssa.heads                                      # G
        self.heads = list(map(slice, range(0, mssa.heads, size), range(size, mssa.heads + size, size)))
        self.most_pixels = CPU_U // (self.keys * len(weight)) if self.on_cpu else sys.maxsize
        self.most_queries = CPU_HIDDEN // len(weight) if self.on_cpu else sys.maxsize
        self.weight_by_head = rearrange(self.weight, 'm (k h d) -> h k d m', k=self.keys, h=mssa.heads).contiguous()
        self.values_by_head = rearrange(maps.values, 'row (h d) -> h row d', h=mssa.heads).contiguous()

    def __call__(self, image: int, ys: Lines, xs: Lines) -> Tensor:
        """RGB, without the bilinear skip, of the queries of I×J LR pixels: (I·m, J·n, 3)."""
        rows = self.rows(image, ys, xs, self.mssa.radius)                            # (P, K²)
        queries = F.embedding(self.rows(image, ys, xs, 1), self.maps.queries)        # (P, 9, C)
        keys = F.embedding(rows, self.maps.keys)                                     # (P, K², C)
        taps = ys.taps[:, None, :, None, :, None] * xs.taps[None, :, None, :, None]  # (I, J, m, n, 3, 3)
        taps = taps.flatten(4).flatten(2, 3).flatten(0, 1)                           # (P, S, 9)
        attention = partial(self.attend, queries=queries, keys=keys, taps=taps, ys=ys, xs=xs)        # of a group of heads
        offset = self.offset[image % len(self.offset)]                               # (1, M)
        if taps.shape[1] == 1:
            x = self.single_product(rows, torch.cat(list(map(attention, self.heads)), 1)) + offset
        else:
            x = self.joint_product(rows, attention, offset.repeat(*taps.shape[:2], 1))               # (P, S, M)
        return rearrange(self.imnet.layers[1:](x), '(i j) (m n) c -> (i m) (j n) c', i=len(ys.lr), m=ys.out.shape[1])

    def rows(self, image: int, ys: Lines, xs: Lines, radius: int) -> Tensor:
        """Rows of the maps around the LR pixels: (P, (2·radius + 1)²)."""
        window = pixel_offsets(radius, ys.lr.device)
        y, x = ys.lr.view(-1, 1, 1) + window[:, 0], xs.lr.view(1, -1, 1) + window[:, 1]              # (I, 1, K²), (1, J, K²)
        return self.mssa.pixel_index(self.maps.region, image, y, x).flatten(0, 1)

    def attend(self, heads: slice, queries: Tensor, keys: Tensor, taps: Tensor, ys: Lines, xs: Lines) -> Tensor:
        """Attention of G heads: (P, 9, C), (P, K², C), (P, S, 9) → (P, G, S, K²)."""
        near = queries.unflatten(2, (self.mssa.heads, -1))[:, :, heads].to(self.exact)               # (P, 9, G, d)
        keys = keys.unflatten(2, (self.mssa.heads, -1))[:, :, heads].to(self.exact)  # (P, K², G, d)
        with torch.autocast(keys.device.type, enabled=False):  # frequencies up to 1023: half precision would not do
            gram = near.transpose(1, 2) @ keys.permute(0, 2, 3, 1)                   # (P, G, 9, d) · (P, G, d, K²)
            bias_y, bias_x = ys.bias[:, :, heads].transpose(1, 2), xs.bias[:, :, heads].transpose(1, 2)    # (I, G, m, K²)
            bias = bias_y[:, None, :, :, None] + bias_x[None, :, :, None]            # (I, J, G, m, n, K²)
            bias = bias.flatten(3, 4).flatten(0, 2)                                  # (P·G, S, K²)
            groups = gram.shape[1]                                                   # G
            taps = taps.unsqueeze(1).expand(-1, groups, -1, -1).flatten(0, 1)        # (P·G, S, 9)
            logits = torch.baddbmm(bias, taps, gram.flatten(0, 1))
            attention = short_softmax(logits, 2) if self.on_cpu else logits.softmax(2)
        return attention.unflatten(0, (-1, groups))

    def joint_product(self, rows: Tensor, attention_of: Callable[[slice], Tensor], out: Tensor) -> Tensor:
        """W1 · weighted values through u: (P, K²), offset (P, S, M) → (P, S, M).

        `attention_of` a group of heads is (P, G, S, K²). Adds to `out` in place: new memory is slow on CPUs.
        """
        u = None
        for heads in self.heads:
            values = self.values_by_head[heads].index_select(1, rows.T.flatten())    # (G, K²·P, d)
            values = values.unflatten(1, (-1, len(rows))).flatten(0, 1)              # (G·K², P, d)
            buffer = u if self.on_cpu else None  # in place too
            u = torch.bmm(values, self.weight_by_head[heads].flatten(0, 1), out=buffer)              # (G·K², P, M)
            attention = attention_of(heads).transpose(1, 2).flatten(2).to(u.dtype)   # (P, S, G·K²)
            out = out.to(u.dtype).baddbmm_(attention, u.transpose(0, 1))
        return out

    def single_product(self, rows: Tensor, attention: Tensor) -> Tensor:
        """W1 · weighted values of one query per pixel: (P, K²), (P, h, 1, K²) → (P, 1, M)."""
        values = F.embedding(rows, self.maps.values).unflatten(2, (self.mssa.heads, -1))             # (P, K², h, d)
        weights = attention.permute(0, 3, 1, 2).to(values.dtype)                     # (P, K², h, 1)
        return F.linear((weights * values).flatten(1), self.weight).unsqueeze(1)


class PlaneDecoder:
    """Decodes blocks of LR pixels with equally many queries each, on CPUs; holds the tensors that all blocks use.

    All arrays are planes, with the LR columns innermost: each elementwise step runs along them. Products with W1 are of the
    type of the maps, as elsewhere; attention is at least float32.
    """

    longest, most_pixels, most_queries = PLANE_COLUMNS, sys.maxsize, CPU_PLANE

    def __init__(self, mssa: LocalAttention, imnet: MLP, maps: Maps, common: Tensor | None):
        self.mssa, self.imnet, self.maps = mssa, imnet, maps
        self.dtype = maps.values.dtype
        self.exact = torch.promote_types(self.dtype, torch.float32)  # of logits
        weight, offset = imnet.first_layer((2 * mssa.radius + 1) ** 2 * maps.values.shape[1], common)
        weight, offset = weight.to(self.dtype), offset.to(self.dtype)  # autocast does not convert what works in place
        by_head = weight.unflatten(1, ((2 * mssa.radius + 1) ** 2, mssa.heads, -1))  # (M, K², h, d)
        self.weights = rearrange(by_head, 'm k h d -> k m (d h)').contiguous().unbind(0)             # K² × (M, C)
        self.weight_by_head = rearrange(by_head, 'm k h d -> (k h) d m').contiguous()
        self.offset = offset.expand(len(offset) if offset.ndim == 3 else 1, 1, -1)   # (B or 1, 1, M)
        self.further_layers = imnet.layers[1:]

    @staticmethod
    def suits(mssa: LocalAttention, maps: Maps) -> bool:
        """Whether planes are the faster way. They record no gradients."""
        values = maps.values
        return (values.device.type == 'cpu' and values.shape[1] <= WIDEST_PLANE * mssa.heads
                and not torch.is_grad_enabled())

    def __call__(self, image: int, ys: Lines, xs: Lines) -> Tensor:
        """RGB, without the bilinear skip, of the queries of I×J LR pixels: (I·m, J·n, 3)."""
        radius = self.mssa.radius
        keys = self.window(self.maps.keys, self.exact, radius, image, ys, xs)
        shared = self.maps.queries is self.maps.keys and radius == 1
        near = keys if shared else self.window(self.maps.queries, self.exact, 1, image, ys, xs)
        attention = self.attend(self.sample(near, ys, xs), keys, ys, xs).to(self.dtype)
        values = self.window(self.maps.values, self.dtype, radius, image, ys, xs)
        offset = self.offset[image % len(self.offset)]                               # (1, M)
        m, i = ys.out.shape[1], len(ys.lr)
        if m * xs.out.shape[1] >= SHARED:
            rgb = self.further_layers(self.weigh_jointly(attention, values, offset))                 # (P, S, 3)
            return rearrange(rgb, '(i j) (m n) c -> (i m) (j n) c', m=m, i=i)
        rgb = self.further_layers(self.weigh(attention, values, offset).T)           # (P·S, 3)
        return rearrange(rgb, '(m n i j) c -> (i m) (j n) c', m=m, i=i, j=len(xs.lr))

    def window(self, x: Tensor, dtype: torch.dtype, radius: int, image: int, ys: Lines, xs: Lines) -> Tensor:
        """The pixels of a map around the LR pixels: (d, h, 2·radius + 1, 2·radius + 1, I, J), of each offset a plane."""
        region, padding, size = self.maps.region, self.mssa.padding, 2 * radius + 1
        height, width = region.bottom - region.top + 2 * padding, region.right - region.left + 2 * padding
        top, bottom, left, right = int(ys.lr[0]), int(ys.lr[-1]) + size, int(xs.lr[0]), int(xs.lr[-1]) + size
        y, x_ = padding - radius - region.top, padding - radius - region.left        # from LR lines to those of the map
        part = rearrange(x.view(-1, height, width, x.shape[1])[image, top + y:bottom + y, left + x_:right + x_],
                         'y x (h d) -> d h y x', h=self.mssa.heads).contiguous().to(dtype)
        if part.shape[2:] == (len(ys.lr) + size - 1, len(xs.lr) + size - 1):  # no line is left out
            return part.unfold(2, len(ys.lr), 1).unfold(3, len(xs.lr), 1)
        offset = torch.arange(size).unsqueeze(1)
        part = part.index_select(2, (ys.lr - top + offset).flatten()).index_select(3, (xs.lr - left + offset).flatten())
        return part.unflatten(3, (size, -1)).unflatten(2, (size, -1)).transpose(3, 4)

    def sample(self, window: Tensor, ys: Lines, xs: Lines) -> Tensor:
        """Bilinear samples of the query map at the queries: (d, h, 3, 3, I, J) → (d, h, m, n, I, J)."""
        rows, columns = ys.taps.permute(2, 1, 0).unsqueeze(3), xs.taps.permute(2, 1, 0).unsqueeze(2).contiguous()
        above, at, below = window.unsqueeze(4).unbind(2)                             # (d, h, 3, 1, I, J)
        lines = window.new_empty(*at.shape[:3], rows.shape[1], *at.shape[4:])  # contiguous, as the window is not
        torch.mul(above, rows[0], out=lines).addcmul_(at, rows[1]).addcmul_(below, rows[2])          # (d, h, 3, m, I, J)
        left, at, right = lines.unsqueeze(4).unbind(2)                               # (d, h, m, 1, I, J)
        samples = window.new_empty(*at.shape[:3], columns.shape[1], *at.shape[4:])
        return torch.mul(left, columns[0], out=samples).addcmul_(at, columns[1]).addcmul_(right, columns[2])

    def attend(self, query: Tensor, window: Tensor, ys: Lines, xs: Lines) -> Tensor:
        """Attention of the queries to the keys: (d, h, m, n, I, J), (d, h, K, K, I, J) → (K², h, m, n, I, J)."""
        bias_y = ys.bias.permute(3, 2, 1, 0)[:, :, :, None, :, None].contiguous()    # (K², h, m, 1, I, 1)
        bias_x = xs.bias.permute(3, 2, 1, 0)[:, :, None, :, None].contiguous()       # (K², h, 1, n, 1, J)
        logits = torch.add(bias_y, bias_x, out=query.new_empty(len(bias_y), *query.shape[1:]))
        channels, keys = query.unbind(0), iter(logits.unbind(0))                     # d × and K² × (h, m, n, I, J)
        for row in window[:, :, :, :, None, None].unbind(2):
            for planes in row.unbind(2):                                             # (d, h, 1, 1, I, J), of one key
                of_key = next(keys)
                for channel, plane in zip(channels, planes.unbind(0)):
                    of_key.addcmul_(channel, plane)
        return short_softmax(logits, 0)

    def weigh(self, attention: Tensor, window: Tensor, offset: Tensor) -> Tensor:
        """W1 · weighted values + offset: (K², h, m, n, I, J), (d, h, K, K, I, J), (1, M) → (M, P·S)."""
        hidden = offset.T.repeat(1, attention[0, 0].numel())
        weighted = attention.new_empty(len(window), *attention.shape[1:])            # (d, h, m, n, I, J), of one key
        factors = weighted.view(-1, hidden.shape[1])                                 # (C, P·S)
        keys = zip(attention.unbind(0), self.weights)
        for row in window[:, :, :, :, None, None].unbind(2):
            for planes in row.unbind(2):                                             # (d, h, 1, 1, I, J), of one key
                of_key, weight = next(keys)
                torch.mul(of_key, planes, out=weighted)
                hidden.addmm_(weight, factors)
        return hidden

    def weigh_jointly(self, attention: Tensor, window: Tensor, offset: Tensor) -> Tensor:
        """As `weigh`, through u: (P, S, M)."""
        attention = attention.flatten(2).flatten(0, 1).T.contiguous()                # (S·P, K²·h): a matrix is copied faster
        values = rearrange(window, 'd h y x i j -> (y x h) (i j) d').contiguous()    # (K²·h, P, d)
        attention = attention.unflatten(0, (-1, values.shape[1])).transpose(0, 1)    # (P, S, K²·h)
        hidden = offset.repeat(*attention.shape[:2], 1)                              # (P, S, M)
        for part, a, v in zip(hidden.split(U_PIXELS), attention.split(U_PIXELS), values.split(U_PIXELS, 1)):
            u = v @ self.weight_by_head                                              # (K²·h, U_PIXELS or fewer, M)
            part.baddbmm_(a, u.transpose(0, 1))
        return hidden


def group_lines(mssa: LocalAttention, maps: Maps, rows: Tensor, columns: Tensor,
                cell: Tensor | None) -> tuple[list[Lines], list[Lines]]:
    """Groups the output rows by how many of them are nearest to the same LR row, and the columns likewise.

    The taps of the rows contain the scale of the logits. Args: those of `decode_grid`.
    """
    region, radius = maps.region, mssa.padding
    cell_y, cell_x = (None, None) if cell is None else cell[0]
    index_y, delta_y = nearest_window(rows, region.image_height, radius, cell_y)     # (h,), (h, 2·padding + 1)
    index_x, delta_x = nearest_window(columns, region.image_width, radius, cell_x)
    window = slice(radius - mssa.radius, radius + mssa.radius + 1)
    bias_y, bias_x = mssa.position_bias(delta_y[:, window], delta_x[:, window])      # (h, K, heads)
    size = bias_y.shape[1]
    bias_y = bias_y.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, size).flatten(2)                 # (h, heads, K²)
    bias_x = bias_x.transpose(1, 2).unsqueeze(2).expand(-1, -1, size, -1).flatten(2)
    near = slice(radius - 1, radius + 2)
    scale = (maps.values.shape[1] // mssa.heads) ** -0.5  # of the logits
    return group_by_count(index_y, delta_y[:, near], bias_y, scale), group_by_count(index_x, delta_x[:, near], bias_x, 1)


def group_by_count(index: Tensor, delta: Tensor, bias: Tensor, factor: float) -> list[Lines]:
    """Groups N output lines by how many have the same nearest LR line. One of more than LONGEST output lines appears
    several times.

    Args:
        index: (N,), the nearest LR lines, ascending, on the host.
        delta: (N, 3), offsets to the LR lines before, at and after (2.0 per line), on the host.
        bias: (N, h, K²), on the device of the lines that are returned.
        factor: of the taps, the weights of linear samples.
    """
    taps = (1 - delta.abs() / 2).clamp(min=0) * factor
    place = torch.arange(len(index)) - torch.searchsorted(index, index)              # among those of an LR line
    (lines, _), counts = torch.stack([index, place // LONGEST]).unique_consecutive(return_counts=True, dim=1)
    first = counts.cumsum(0) - counts
    groups = []
    for count in counts.unique().tolist():
        equal = counts == count
        out = first[equal].unsqueeze(1) + torch.arange(count)                        # (I, m)
        place_out = upload(out, bias)
        groups.append(Lines(upload(lines[equal], bias), place_out, upload(taps[out], bias, bias.dtype), bias[place_out]))
    return groups


def short_softmax(logits: Tensor, dim: int) -> Tensor:
    """Softmax over a dimension, in place; faster than PyTorch's on CPUs where it is as short as K² (docs/speed.md).

    Weights below e⁻⁴⁰ of the largest are raised to it: they are too small to change any sum, and exp is slow where it
    underflows.
    """
    weights = logits.sub_(logits.amax(dim, keepdim=True)).clamp_(min=-40).exp_()
    return weights.div_(weights.sum(dim, keepdim=True))
