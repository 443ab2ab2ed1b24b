"""Structural similarity (Wang et al., IEEE Transactions on Image Processing 13(4), 2004)."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.evaluation.metrics.base import Metric, register

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


@register
class SSIM(Metric):
    """Mean structural similarity, in [−1, 1]: Gaussian windows wholly inside the image, data range 1."""
    name = 'ssim'
    heading = 'SSIM'
    decimals = 4

    def score(self, prediction: Tensor, target: Tensor) -> float:
        """Args: both (C, H, W) in [0, 1]; channels are averaged. Returns: NaN when a side is below 11 pixels."""
        if min(prediction.shape[1:]) < WINDOW:
            return math.nan
        window = _gaussian(prediction)

        def blur(x: Tensor) -> Tensor:                                               # (C, H, W) → (C, H − 10, W − 10)
            x = F.conv2d(x.unsqueeze(1), window.view(1, 1, -1, 1))
            return F.conv2d(x, window.view(1, 1, 1, -1)).squeeze(1)

        mean_p, mean_t = blur(prediction), blur(target)
        variance_p = blur(prediction.square()) - mean_p.square()
        variance_t = blur(target.square()) - mean_t.square()
        covariance = blur(prediction * target) - mean_p * mean_t
        c1, c2 = K1 ** 2, K2 ** 2
        similarity = ((2 * mean_p * mean_t + c1) * (2 * covariance + c2)
                      / ((mean_p.square() + mean_t.square() + c1) * (variance_p + variance_t + c2)))
        return similarity.mean().item()


def _gaussian(like: Tensor) -> Tensor:
    """The window along one axis, (11,), of sum 1, with dtype and device of `like`."""
    position = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    window = torch.exp(-position.square() / (2 * SIGMA ** 2))
    return window / window.sum()
