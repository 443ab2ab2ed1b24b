"""Muon: momentum made orthogonal (K. Jordan and others, kellerjordan.github.io/posts/muon, 2024), for convolutions too.

A weight (m, …) is a matrix of m rows, its output channels, and n columns, all the rest. Adam moves every number of it by
some learning rate; Muon moves the matrix by some learning rate in every direction that its gradient has, weak ones included.
"""
from itertools import groupby

import torch
from torch import Tensor

NOTHING = 1e-7  # Frobenius norm below which a matrix fades: that of a layer whose gradients have ceased
SMALLEST = 8  # rows and columns: smaller weights have no directions to balance


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly: (B, m, n) → (B, m, n), singular values pushed to 0.7…1.2.

    Newton-Schulz iterations of the odd polynomial 3.4445 x - 4.7750 x³ + 2.0315 x⁵, Jordan's, on the singular values after
    they have been brought into 0…1. Values below some 0.002 of the Frobenius norm are not there yet after five steps.
    """
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices        # (B, k, l), k <= l
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=NOTHING)
    for _ in range(steps):
        square = x @ x.mT                                                            # (B, k, k)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide is matrices else x.mT


class Muon(torch.optim.Optimizer):
    """Muon for weights of at least 8 rows and 8 columns, Adam for all others: biases, norms, scalars, the last layer.

    Args:
        lr: learning rate, in Adam's terms: see `scale`.
        momentum: of the average of gradients that is made orthogonal; Nesterov's.
        scale: an update has a root mean square of about scale·lr, whatever the shape: 0.2 is that of Adam's updates
            (arXiv 2502.16982, section 2.2), whose rates so carry over.
        betas, eps: Adam's.
    """

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.95, scale: float = 0.2,
                 betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8):
        if lr < 0 or scale <= 0 or eps <= 0:
            raise ValueError(f'expected lr >= 0, scale > 0 and eps > 0, got {lr}, {scale} and {eps}')
        if len(betas) != 2 or not all(0 <= share < 1 for share in (momentum, *betas)):
            raise ValueError(f'expected a momentum and two betas in [0, 1), got {momentum} and {list(betas)}')
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'scale': scale, 'betas': tuple(betas), 'eps': eps})

    @torch.no_grad()
    def step(self, closure=None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices, others = [], []
            for parameter in group['params']:
                if parameter.grad is not None:
                    self.state[parameter]['step'] = self.state[parameter].get('step', 0) + 1
                    (matrices if is_matrix(parameter) else others).append(parameter)
            matrices.sort(key=matrix_shape)
            for (m, n), same in groupby(matrices, matrix_shape):  # products of one shape are computed together
                same = list(same)
                directions = [self.direction(parameter, group['momentum']).reshape(m, n) for parameter in same]
                for parameter, update in zip(same, orthogonalise(torch.stack(directions).float())):
                    parameter.sub_(update.reshape(parameter.shape), alpha=group['lr'] * group['scale'] * max(m, n) ** 0.5)
            for parameter in others:
                self.adam(parameter, group)
        return loss

    def direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The average of the gradients so far, and one step ahead of it: shaped like the parameter."""
        average = self.average(parameter, 'average')
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)

    def adam(self, parameter: Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[parameter], group['betas']
        average, square = self.average(parameter, 'average'), self.average(parameter, 'square')
        average.lerp_(parameter.grad, 1 - beta1)
        square.lerp_(parameter.grad.square(), 1 - beta2)
        deviation = (square / (1 - beta2 ** state['step'])).sqrt_().add_(group['eps'])
        parameter.addcdiv_(average, deviation, value=-group['lr'] / (1 - beta1 ** state['step']))

    def average(self, parameter: Tensor, name: str) -> Tensor:
        """A running average, zeros at first."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """(m, n): rows, and all the rest as columns."""
    return parameter.shape[0], parameter[0].numel()


def is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(matrix_shape(parameter)) >= SMALLEST
