"""Parts of an LR image: large images are encoded region by region, so that memory does not grow with them.

A convolution sees zeros beyond the border of the *image*. A region is therefore grown by what its outputs depend on, cut
at the image's border, encoded, and only its inner part is used: the numbers of the whole image, to rounding.

Shapes: B batch, C channels, H×W the whole LR image.
"""
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ENCODING_SHARE = 0.6   # of the memory budget; the queries take the rest
MODEST_ON_CPU = 3 * 2 ** 29
SMALLEST_SIDE = 16     # of a region, in LR pixels


class Region(NamedTuple):
    """Rows top … bottom − 1 and columns left … right − 1 of an image of height × width pixels."""
    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> 'Region':
        return cls(0, height, 0, width, height, width)

    @property
    def is_whole(self) -> bool:
        return self == Region.whole(self.height, self.width)

    def grow(self, pixels: int) -> 'Region':
        """The region with a margin of `pixels`, cut at the image's border."""
        return self._replace(top=max(self.top - pixels, 0), bottom=min(self.bottom + pixels, self.height),
                             left=max(self.left - pixels, 0), right=min(self.right + pixels, self.width))

    def of(self, x: Tensor, source: 'Region | None' = None) -> Tensor:
        """This region's part of a map (B, C, …) of the image, or of the larger region `source`."""
        top, left = (source.top, source.left) if source else (0, 0)
        return x[:, :, self.top - top:self.bottom - top, self.left - left:self.right - left]

    def local(self, coord: Tensor) -> Tensor:
        """Coordinates (…, 2) in the image → the same points in coordinates of the region, in which it spans [−1, 1]."""
        if self.is_whole:
            return coord
        size = coord.new_tensor([self.height, self.width])
        start = coord.new_tensor([self.top, self.left])
        own = coord.new_tensor([self.bottom - self.top, self.right - self.left])
        return ((coord + 1) * size - 2 * start) / own - 1

    def split(self, rows: int, columns: int) -> Iterator['Region']:
        """The region cut evenly into parts of at most rows × columns pixels, row by row."""
        for top, bottom in cuts(self.top, self.bottom, rows):
            for left, right in cuts(self.left, self.right, columns):
                yield self._replace(top=top, bottom=bottom, left=left, right=right)


def cuts(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """[start, stop) as the fewest intervals of at most `longest`, as even as can be."""
    parts = -(-(stop - start) // longest)
    edges = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))


def wrapped(compute: Callable[[Region], Tensor], region: Region, margin: int) -> Tensor:
    """A map on a region with `margin` pixels around it that continue beyond the border on the image's other side.

    Args:
        compute: the map (B, C, h, w) of a region inside the image.
    Returns: (B, C, h + 2·margin, w + 2·margin).
    """
    rows = wrapped_runs(region.top - margin, region.bottom + margin, region.height)
    columns = wrapped_runs(region.left - margin, region.right + margin, region.width)
    return torch.cat([torch.cat([compute(region._replace(top=top, bottom=bottom, left=left, right=right))
                                 for left, right in columns], 3) for top, bottom in rows], 2)


def wrapped_runs(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """The lines start … stop − 1, taken modulo `length`, as intervals of [0, length)."""
    runs = []
    while start < stop:
        first = start % length
        run = min(stop - start, length - first)
        runs.append((first, first + run))
        start += run
    return runs


def free_shares(device: torch.device) -> tuple[int, int]:
    """A modest and a large share of the memory that is free on a device, in bytes."""
    if device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
        return free // 2, free // 4 * 3
    free = available_memory()
    return min(MODEST_ON_CPU, free // 4), free // 2


def available_memory() -> int:
    """Bytes of main memory that are free or can be freed; where the system does not tell, enough for the default."""
    meminfo = Path('/proc/meminfo')
    if not meminfo.is_file():
        return 4 * MODEST_ON_CPU
    lines = dict(line.split(':') for line in meminfo.read_text().splitlines())
    return int(lines['MemAvailable'].split()[0]) * 1024
