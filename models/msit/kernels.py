"""The Triton kernels behind `fused.py`, which says what they compute and what that costs.

Shapes: N queries, K² keys of each (KEYS), R rows of the maps, C channels = h heads (HEADS) of d channels (DIM), M hidden
units. A tile holds BLOCK_N queries, BLOCK_M hidden units and, of one key, HEAD_TILE heads by DIM_TILE channels of each: its
LANES channels. All but N is known when a kernel is compiled. A tile's sides are powers of two, and masks hide what lies
beyond the tensors. Tensors are contiguous.

Queries and rows are counted in int64, since N·K²·C passes 2³¹ at 171,197 queries of the paper's size. Sums are float32
whatever the inputs are. Gradients of rows that several queries share are added up atomically, in any order: from run to run
they are the same to rounding only.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

SMALLEST_SIDE = 16      # of what tl.dot multiplies
PRODUCT_NUMBERS = 1024  # in a tile of the products: few, so that many programs run at a time and hide their loads
BLOCK_KEYS = 7          # keys whose gradients one program computes: a seventh of 49, so that few queries keep a GPU busy
PART_N = 8192           # queries over which one program sums the gradient of the weight


class Tile(NamedTuple):
    """Sides of a tile, warps of a program, and how many steps of its loop are in flight at a time."""
    queries: int
    hidden: int
    channels: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """Of a kernel, for 16-bit numbers where a program may have 227 KiB of shared memory or 99, and for float32."""
    large: Tile
    small: Tile
    float32: Tile


# Chosen for C = 256 and M = 256 by what the compiler reports for compute capabilities 8.0 to 12.0, not by timing: registers
# suffice without spilling, and shared memory is within the limit. A number that is read takes part in as many products as
# the other side of the tile is long, so 16-bit tiles are as large as registers allow: 128 × 256 sums are 128 of a thread's
# 255. float32 is multiplied by the ordinary cores, which need less traffic: smaller tiles, several to a multiprocessor.
# Loads of values wait for those of their rows, which takes up stages.
TILES = {
    'first_layer': Tiles(Tile(128, 256, 64, 8, 5), Tile(128, 256, 32, 8, 5), Tile(64, 128, 16, 4, 4)),
    'inputs_backward': Tiles(Tile(128, 256, 64, 8, 2), Tile(64, 256, 32, 4, 3), Tile(64, 16, 64, 8, 3)),
    'weight_backward': Tiles(Tile(64, 256, 128, 8, 5), Tile(32, 256, 64, 8, 5), Tile(16, 128, 64, 4, 4)),
}


@triton.jit
def tile_channels(tile, HEADS: tl.constexpr, DIM: tl.constexpr, HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr):
    """Heads of a tile (HEAD_TILE,), its channels (LANES,), and which of these exist."""
    DIM_TILES: tl.constexpr = (DIM + DIM_TILE - 1) // DIM_TILE
    lane = tl.arange(0, HEAD_TILE * DIM_TILE)
    first = tile // DIM_TILES * HEAD_TILE
    head = first + lane // DIM_TILE
    dim = tile % DIM_TILES * DIM_TILE + lane % DIM_TILE
    return first + tl.arange(0, HEAD_TILE), head * DIM + dim, (head < HEADS) & (dim < DIM)


@triton.jit
def spread(x, DIM_TILE: tl.constexpr):
    """A number per head (BLOCK_N, HEAD_TILE) → the same for each of its channels (BLOCK_N, LANES)."""
    wide = tl.broadcast_to(tl.expand_dims(x, 2), [x.shape[0], x.shape[1], DIM_TILE])
    return tl.reshape(wide, [x.shape[0], x.shape[1] * DIM_TILE])


@triton.jit
def sum_heads(x, HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr):
    """Sums over the channels of each head: (BLOCK_N, LANES) → (BLOCK_N, HEAD_TILE)."""
    return tl.sum(tl.reshape(x, [x.shape[0], HEAD_TILE, DIM_TILE]), 2)


@triton.jit
def load_heads(source, n, key, head, N, KEYS: tl.constexpr, HEADS: tl.constexpr):
    """(N, K², h) → (BLOCK_N, HEAD_TILE) float32, zeros beyond the tensor."""
    at = (n * KEYS + key)[:, None] * HEADS + head[None, :]
    return tl.load(source + at, mask=(n < N)[:, None] & (head < HEADS)[None, :], other=0).to(tl.float32)


@triton.jit
def load_hidden(source, n, first, N, M: tl.constexpr, BLOCK_M: tl.constexpr):
    """(N, M) → (BLOCK_N, BLOCK_M), hidden units from `first` on, zeros beyond the tensor."""
    m = first + tl.arange(0, BLOCK_M)
    return tl.load(source + n[:, None] * M + m[None, :], mask=(n < N)[:, None] & (m < M)[None, :], other=0)


@triton.jit
def load_weight(weight, first, key, channel, exists, M: tl.constexpr, KEYS: tl.constexpr, HEADS: tl.constexpr,
                DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    """(M, K²·C) → (BLOCK_M, LANES), hidden units from `first` on, zeros beyond the tensor."""
    m = first + tl.arange(0, BLOCK_M)
    return tl.load(weight + m[:, None] * (KEYS * HEADS * DIM) + (key * (HEADS * DIM) + channel)[None, :],
                   mask=(m < M)[:, None] & exists[None, :], other=0)


@triton.jit
def weighted_tile(attention, values, rows, n, key, head, channel, exists, N, KEYS: tl.constexpr, HEADS: tl.constexpr,
                  DIM: tl.constexpr, DIM_TILE: tl.constexpr):
    """Weighted values (BLOCK_N, LANES), float32."""
    row = tl.load(rows + n * KEYS + key, mask=n < N, other=0)
    v = tl.load(values + row[:, None] * (HEADS * DIM) + channel[None, :], mask=(n < N)[:, None] & exists[None, :], other=0)
    return spread(load_heads(attention, n, key, head, N, KEYS, HEADS), DIM_TILE) * v.to(tl.float32)


@triton.jit(do_not_specialize=['N'])
def products_kernel(query, keys, rows, products, N, KEYS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
                    BLOCK_N: tl.constexpr, HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    head, channel, exists = tile_channels(0, HEADS, DIM, HEAD_TILE, DIM_TILE)
    mask = (n < N)[:, None] & exists[None, :]
    q = tl.load(query + n[:, None] * (HEADS * DIM) + channel[None, :], mask=mask, other=0).to(tl.float32)
    for key in range(KEYS):
        row = tl.load(rows + n * KEYS + key, mask=n < N, other=0)
        k = tl.load(keys + row[:, None] * (HEADS * DIM) + channel[None, :], mask=mask, other=0).to(tl.float32)
        at = (n * KEYS + key)[:, None] * HEADS + head[None, :]
        tl.store(products + at, sum_heads(q * k, HEAD_TILE, DIM_TILE), mask=(n < N)[:, None] & (head < HEADS)[None, :])


@triton.jit(do_not_specialize=['N'])
def products_backward_kernel(grad, query, keys, rows, grad_query, grad_keys, N, KEYS: tl.constexpr, HEADS: tl.constexpr,
                             DIM: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    head, channel, exists = tile_channels(0, HEADS, DIM, HEAD_TILE, DIM_TILE)
    mask = (n < N)[:, None] & exists[None, :]
    at_query = n[:, None] * (HEADS * DIM) + channel[None, :]
    q = tl.load(query + at_query, mask=mask, other=0).to(tl.float32)
    dq = tl.zeros([BLOCK_N, HEAD_TILE * DIM_TILE], tl.float32)
    for key in range(KEYS):
        row = tl.load(rows + n * KEYS + key, mask=n < N, other=0)
        at = row[:, None] * (HEADS * DIM) + channel[None, :]
        k = tl.load(keys + at, mask=mask, other=0).to(tl.float32)
        g = spread(load_heads(grad, n, key, head, N, KEYS, HEADS), DIM_TILE)
        dq += g * k
        tl.atomic_add(grad_keys + at, g * q, mask=mask, sem='relaxed')
    tl.store(grad_query + at_query, dq, mask=mask)


@triton.jit(do_not_specialize=['N'])
def first_layer_kernel(attention, values, rows, weight, hidden, N, KEYS: tl.constexpr, HEADS: tl.constexpr,
                       DIM: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                       HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr, PRECISION: tl.constexpr):
    STEPS: tl.constexpr = ((HEADS + HEAD_TILE - 1) // HEAD_TILE) * ((DIM + DIM_TILE - 1) // DIM_TILE)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * BLOCK_M
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for step in range(KEYS * STEPS):
        key = step // STEPS
        head, channel, exists = tile_channels(step % STEPS, HEADS, DIM, HEAD_TILE, DIM_TILE)
        x = weighted_tile(attention, values, rows, n, key, head, channel, exists, N, KEYS, HEADS, DIM, DIM_TILE)
        w = load_weight(weight, first, key, channel, exists, M, KEYS, HEADS, DIM, BLOCK_M)
        total = tl.dot(x.to(w.dtype), tl.trans(w), total, input_precision=PRECISION)
    m = first + tl.arange(0, BLOCK_M)
    tl.store(hidden + n[:, None] * M + m[None, :], total, mask=(n < N)[:, None] & (m < M)[None, :])


@triton.jit(do_not_specialize=['N'])
def inputs_backward_kernel(grad, attention, values, rows, weight, grad_attention, grad_values, N, KEYS: tl.constexpr,
                           HEADS: tl.constexpr, DIM: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr,
                           BLOCK_M: tl.constexpr, HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr,
                           BLOCK_KEYS: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr):
    STEPS: tl.constexpr = ((HEADS + HEAD_TILE - 1) // HEAD_TILE) * ((DIM + DIM_TILE - 1) // DIM_TILE)
    PARTS: tl.constexpr = (KEYS + BLOCK_KEYS - 1) // BLOCK_KEYS
    n = (tl.program_id(0) // PARTS).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(0) % PARTS * BLOCK_KEYS
    if M <= BLOCK_M:  # stays where it is for all steps
        g = load_hidden(grad, n, 0, N, M, BLOCK_M)
    for step in tl.range(first * STEPS, min(first + BLOCK_KEYS, KEYS) * STEPS, num_stages=STAGES):
        key = step // STEPS
        head, channel, exists = tile_channels(step % STEPS, HEADS, DIM, HEAD_TILE, DIM_TILE)
        mask = (n < N)[:, None] & exists[None, :]
        row = tl.load(rows + n * KEYS + key, mask=n < N, other=0)
        at = row[:, None] * (HEADS * DIM) + channel[None, :]
        v = tl.load(values + at, mask=mask, other=0).to(tl.float32)
        a = load_heads(attention, n, key, head, N, KEYS, HEADS)
        dx = tl.zeros([BLOCK_N, HEAD_TILE * DIM_TILE], tl.float32)                   # of the weighted values
        for start in range(0, M, BLOCK_M):
            if M > BLOCK_M:
                g = load_hidden(grad, n, start, N, M, BLOCK_M)
            w = load_weight(weight, start, key, channel, exists, M, KEYS, HEADS, DIM, BLOCK_M)
            dx = tl.dot(g, w, dx, input_precision=PRECISION)
        of_head = (n * KEYS + key)[:, None] * HEADS + head[None, :]
        tl.atomic_add(grad_attention + of_head, sum_heads(dx * v, HEAD_TILE, DIM_TILE),
                      mask=(n < N)[:, None] & (head < HEADS)[None, :], sem='relaxed')
        tl.atomic_add(grad_values + at, dx * spread(a, DIM_TILE), mask=mask, sem='relaxed')


@triton.jit(do_not_specialize=['N'])
def weight_backward_kernel(grad, attention, values, rows, grad_weight, N, KEYS: tl.constexpr, HEADS: tl.constexpr,
                           DIM: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                           HEAD_TILE: tl.constexpr, DIM_TILE: tl.constexpr, PART_N: tl.constexpr, PRECISION: tl.constexpr):
    STEPS: tl.constexpr = ((HEADS + HEAD_TILE - 1) // HEAD_TILE) * ((DIM + DIM_TILE - 1) // DIM_TILE)
    key = tl.program_id(0) // STEPS
    head, channel, exists = tile_channels(tl.program_id(0) % STEPS, HEADS, DIM, HEAD_TILE, DIM_TILE)
    first_m, first_n = tl.program_id(1) * BLOCK_M, tl.program_id(2).to(tl.int64) * PART_N
    dw = tl.zeros([HEAD_TILE * DIM_TILE, BLOCK_M], tl.float32)
    for start in range(0, min(PART_N, N - first_n), BLOCK_N):
        n = first_n + start + tl.arange(0, BLOCK_N)
        x = weighted_tile(attention, values, rows, n, key, head, channel, exists, N, KEYS, HEADS, DIM, DIM_TILE)
        g = load_hidden(grad, n, first_m, N, M, BLOCK_M)
        dw = tl.dot(tl.trans(x.to(g.dtype)), g, dw, input_precision=PRECISION)
    m = first_m + tl.arange(0, BLOCK_M)
    tl.atomic_add(grad_weight + m[None, :] * (KEYS * HEADS * DIM) + (key * (HEADS * DIM) + channel)[:, None], dw,
                  mask=(m < M)[None, :] & exists[:, None], sem='relaxed')


def query_key_products(query: Tensor, keys: Tensor, rows: Tensor, heads: int) -> Tensor:
    """(N, C), (R, C), (N, K²) → (N, K², h) float32."""
    products = query.new_empty(*rows.shape, heads, dtype=torch.float32)
    settings = product_settings(rows, heads, query.shape[1])
    launch(products_kernel, (cdiv(len(rows), settings['BLOCK_N']),), settings, query, keys, rows, products, len(rows))
    return products


def query_key_products_backward(grad: Tensor, query: Tensor, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K², h), (N, C), (R, C), (N, K²) → gradients of query and keys."""
    grad_query, grad_keys = torch.empty_like(query), torch.zeros_like(keys, dtype=torch.float32)
    settings = product_settings(rows, grad.shape[2], query.shape[1])
    launch(products_backward_kernel, (cdiv(len(rows), settings['BLOCK_N']),), settings,
           grad, query, keys, rows, grad_query, grad_keys, len(rows))
    return grad_query, grad_keys.to(keys.dtype)


def weighted_first_layer(attention: Tensor, values: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """(N, K², h), (R, C), (N, K²), (M, K²·C) → (N, M)."""
    hidden = weight.new_empty(len(rows), len(weight))
    settings = layer_settings('first_layer', attention, values, hidden)
    grid = (cdiv(len(rows), settings['BLOCK_N']), cdiv(len(weight), settings['BLOCK_M']))
    launch(first_layer_kernel, grid, settings, attention, values, rows, weight, hidden, len(rows))
    return hidden


def inputs_backward(grad: Tensor, attention: Tensor, values: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M), (N, K², h), (R, C), (N, K²), (M, K²·C) → gradients of attention and values."""
    grad_attention, grad_values = (torch.zeros_like(x, dtype=torch.float32) for x in (attention, values))
    settings = layer_settings('inputs_backward', attention, values, grad)
    settings |= {'BLOCK_KEYS': BLOCK_KEYS, 'STAGES': settings['num_stages']}
    grid = (cdiv(len(rows), settings['BLOCK_N']) * cdiv(rows.shape[1], BLOCK_KEYS),)
    launch(inputs_backward_kernel, grid, settings,
           grad, attention, values, rows, weight, grad_attention, grad_values, len(rows))
    return grad_attention.to(attention.dtype), grad_values.to(values.dtype)


def weight_backward(grad: Tensor, attention: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """(N, M), (N, K², h), (R, C), (N, K²) → gradient of the weight (M, K²·C)."""
    grad_weight = grad.new_zeros(grad.shape[1], rows.shape[1] * values.shape[1], dtype=torch.float32)
    settings = layer_settings('weight_backward', attention, values, grad) | {'PART_N': PART_N}
    tiles_of_key = cdiv(settings['HEADS'], settings['HEAD_TILE']) * cdiv(settings['DIM'], settings['DIM_TILE'])
    grid = (rows.shape[1] * tiles_of_key, cdiv(grad.shape[1], settings['BLOCK_M']), cdiv(len(rows), PART_N))
    launch(weight_backward_kernel, grid, settings, grad, attention, values, rows, grad_weight, len(rows))
    return grad_weight.to(grad.dtype)


def product_settings(rows: Tensor, heads: int, channels: int) -> dict:
    """Sizes for the kernels of the products: tiles of all channels of some queries."""
    dim = channels // heads
    head_tile, dim_tile = next_power_of_2(heads), next_power_of_2(dim)
    return {'KEYS': rows.shape[1], 'HEADS': heads, 'DIM': dim, 'BLOCK_N': max(1, PRODUCT_NUMBERS // (head_tile * dim_tile)),
            'HEAD_TILE': head_tile, 'DIM_TILE': dim_tile}


def layer_settings(kernel: str, attention: Tensor, values: Tensor, hidden: Tensor) -> dict:
    """Sizes for a kernel of the first layer: its tiles, no larger than the tensors. `hidden` is (N, M), like the output."""
    if hidden.dtype == torch.float32:
        tiles = TILES[kernel].float32
    else:
        tiles = TILES[kernel].large if has_large_memory(hidden.device) else TILES[kernel].small
    keys, heads = attention.shape[1:]
    dim = values.shape[1] // heads
    dim_tile = min(next_power_of_2(dim), tiles.channels)
    head_tile = max(min(next_power_of_2(heads), tiles.channels // dim_tile), SMALLEST_SIDE // dim_tile)
    return {'KEYS': keys, 'HEADS': heads, 'DIM': dim, 'M': hidden.shape[1], 'BLOCK_N': tiles.queries,
            'BLOCK_M': min(tiles.hidden, max(SMALLEST_SIDE, next_power_of_2(hidden.shape[1]))),
            'HEAD_TILE': head_tile, 'DIM_TILE': dim_tile,
            'PRECISION': 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee',
            'num_warps': tiles.warps, 'num_stages': tiles.stages}


def has_large_memory(device: torch.device) -> bool:
    """Whether a program may have 227 KiB of shared memory: on H100, H200, B200 and similar GPUs."""
    return device.type == 'cuda' and torch.cuda.get_device_properties(device).major in (9, 10)


def launch(kernel: triton.JITFunction, grid: tuple[int, ...], settings: dict, *arguments: Tensor | int) -> None:
    """Runs a kernel on the device of its tensors; without queries it does nothing."""
    if 0 not in grid:
        with torch.cuda.device_of(arguments[0]):
            # a product and its sum in one instruction, which not every version of Triton has as its default
            kernel[grid](*arguments, **settings, enable_fp_fusion=True)
