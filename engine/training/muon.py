"""Muon: momentum made orthogonal (K. Jordan and others, kellerjordan.github.io/posts/muon, 2024), for convolutions too.

A weight (m, …) is a matrix: m rows, its output channels, and n columns, all the rest. Adam moves every number by about the
learning rate; Muon moves the matrix by about the learning rate in every direction that its gradient has, weak ones included.

That needs a map from several inputs to several outputs. Depthwise kernels (m, 1, k, k), of which RIM has one for each slice
of a kernel, map one channel to one channel: their stack is no matrix, and they are left to Adam. A grouped weight
(m, c/g, k, k) has the shape of a dense one from c/g channels and is treated as such: its groups, which read different
channels, share the directions that are balanced.
"""
from itertools import groupby

import torch
from torch import Tensor

NOTHING = 1e-7  # Frobenius norm below which a matrix fades: that of a layer whose gradients have ceased
SMALLEST = 8  # least number of rows and of columns: smaller weights have no directions to balance


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
    """Muon for matrices of at least 8×8, Adam for all else: biases, norms, scalars, depthwise kernels, the last layer.

    Args:
        lr: learning rate, in Adam's terms: see `scale`.
        momentum: of the average of gradients that is made orthogonal; Nesterov's.
        scale: an update has a root mean square of about scale·lr, whatever the shape: 0.2 is that of Adam's updates
            (arXiv 2502.16982, section 2.2), so that Adam's learning rates carry over.
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
    def step(self, closure=None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            others: list[Tensor] = []
            for parameter in group['params']:
                if parameter.grad is not None:
                    (matrices if is_matrix(parameter) else others).append(parameter)
            matrices.sort(key=matrix_shape)
            for (m, n), equal in groupby(matrices, matrix_shape):  # products of one shape are computed together
                same = list(equal)
                directions = [self._direction(parameter, group['momentum']).reshape(m, n) for parameter in same]
                for parameter, update in zip(same, orthogonalise(torch.stack(directions).float())):
                    parameter.sub_(update.reshape(parameter.shape), alpha=group['lr'] * group['scale'] * max(m, n) ** 0.5)
            for parameter in others:
                self._adam(parameter, group)
        return loss

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The average of the gradients so far, and one step ahead of it: shaped like the parameter."""
        assert parameter.grad is not None
        state = self._state(parameter, 'average')
        state['average'].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state['average'], momentum)

    def _adam(self, parameter: Tensor, group: dict) -> None:
        assert parameter.grad is not None
        state, (beta1, beta2) = self._state(parameter, 'average', 'square'), group['betas']
        state['average'].lerp_(parameter.grad, 1 - beta1)
        state['square'].lerp_(parameter.grad.square(), 1 - beta2)
        deviation = (state['square'] / (1 - beta2 ** state['step'])).sqrt_().add_(group['eps'])
        parameter.addcdiv_(state['average'], deviation, value=-group['lr'] / (1 - beta1 ** state['step']))

    def _state(self, parameter: Tensor, *averages: str) -> dict:
        """The state of a weight for this step, with the running averages of these names, zeros at first.

        They start together: where one is missing, since the file that was resumed counted the weight among the matrices, all
        start afresh.
        """
        state = self.state[parameter]
        if not state.keys() >= {'step', *averages}:
            state |= {'step': 0} | {name: torch.zeros_like(parameter) for name in averages}
        state['step'] += 1
        return state


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """(m, n): rows, and all the rest as columns."""
    return parameter.shape[0], parameter[0].numel()


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight maps several channels to several, enough of them to balance directions."""
    return parameter.ndim >= 2 and parameter.shape[1] > 1 and min(matrix_shape(parameter)) >= SMALLEST
