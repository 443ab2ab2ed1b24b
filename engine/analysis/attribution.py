"""Local attribution maps (Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021).

Which LR pixels does a detail of the result depend on? The strength of the detail is followed while the LR image goes from
blurred to sharp; the gradients along this path, integrated, share the change of the strength among the LR pixels.

Shapes: H×W the LR grid, h×w a box of the result.
"""
import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from common import coords
from datasets.protocols import luma
from engine.analysis.boxes import Box
from models.contract import SRModel
from utils import UserError

SIGMA = 1.2  # of the Gaussian at the blurred end of the path, in LR pixels
SMALLEST = 1e-3  # keeps the gradient of a gradient's length finite where that is zero


def blurred(image: Tensor, sigma: float) -> Tensor:
    """An image (1, 3, H, W) blurred by a Gaussian, edge pixels repeated; sigma 0 gives the image itself.

    The weights are integrals of the Gaussian over pixels, so that they change smoothly down to sigma 0.
    """
    if sigma == 0:
        return image
    radius = math.ceil(4 * SIGMA)
    edge = torch.arange(-radius, radius + 2, dtype=torch.float64) - 0.5
    weight = torch.erf(edge / (sigma * 2 ** 0.5)).diff()
    weight = (weight / weight.sum()).to(image).expand(3, 1, -1)                      # (3, 1, K)
    image = F.pad(image, (radius,) * 4, mode='replicate')
    image = F.conv2d(image, weight.unsqueeze(3), groups=3)
    return F.conv2d(image, weight.unsqueeze(2), groups=3).clamp(0, 1)  # rounding apart, it never leaves [0, 1]


def blur_path(image: Tensor, steps: int) -> Iterable[Tensor]:
    """The image from blurred to sharp, in steps + 1 images; sigma falls evenly, from SIGMA to 0."""
    return (blurred(image, SIGMA * (1 - step / steps)) for step in range(steps + 1))


def detail(rgb: Tensor) -> Tensor:
    """The strength of a detail: the mean length of the gradient of its luma, (3, h, w) → a number."""
    y = luma(rgb)[0]
    down, across = y[1:, :-1] - y[:-1, :-1], y[:-1, 1:] - y[:-1, :-1]
    return (down.square() + across.square() + SMALLEST ** 2).sqrt().mean()


def box_detail(model: SRModel, box: Box, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The strength of the detail in a box of the result, as a function of the LR image, (1, 3, H, W) in [0, 1].

    Args:
        size: (height, width) of the whole result.
    """
    def strength(lr: Tensor) -> Tensor:
        grid = box.of(coords.make_grid(*size, lr.device).permute(2, 0, 1))           # (2, h, w)
        cell = coords.make_cell(*size, lr.device).unsqueeze(0)
        rgb = model(lr, grid.flatten(1).T.unsqueeze(0), cell)[0]                     # (h·w, 3)
        return detail(rgb.T.unflatten(1, (box.height, box.width)))
    return strength


def attribute(function: Callable[[Tensor], Tensor], path: Iterable[Tensor], label: str = '',
              done: Callable[[], object] = lambda: None) -> Tensor:
    """The gradients of a function integrated along a path, by the midpoints of its steps: (3, H, W).

    The sum of all values is the change of the function from the first to the last image, up to the error of the steps.

    Args:
        path: images (1, 3, H, W).
        label: the network's name, for the message.
        done: called after every step.
    Raises: UserError where the function has no gradient.
    """
    total: Tensor | None = None
    previous: Tensor | None = None
    for image in path:
        if previous is not None:
            middle = ((previous + image) / 2).requires_grad_()
            value = function(middle)
            if not value.requires_grad:
                raise UserError(f'-model {label}: its result has no gradient, which attributions need; choose a network')
            gradient, = torch.autograd.grad(value, middle)
            step = (gradient * (image - previous))[0]
            total = step if total is None else total + step
            done()
        previous = image
    assert total is not None  # a path has at least one step
    return total


def diffusion_index(attribution: Tensor) -> float:
    """100·(1 − Gini) of the absolute attributions of LR pixels: 100 where all count alike, 0 where one alone does.

    Args:
        attribution: (3, H, W); absolute values are added up over the channels.
    """
    values = attribution.abs().sum(0).flatten().double().sort().values
    if not values.sum() > 0:
        return 0.0
    count = len(values)
    ranks = torch.arange(1, count + 1, dtype=values.dtype, device=values.device)
    gini = (2 * (ranks * values).sum() / (count * values.sum()) - (count + 1) / count).item()
    return 100 * (1 - gini)
