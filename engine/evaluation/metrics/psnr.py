"""Peak signal-to-noise ratio."""
import math

from torch import Tensor

from engine.evaluation.metrics.base import Metric, register


@register
class PSNR(Metric):
    """−10·log10 of the mean squared difference, in dB; infinite for equal images."""
    name = 'psnr'
    heading = 'PSNR (dB)'
    decimals = 2
    undefined = math.inf

    def score(self, prediction: Tensor, target: Tensor) -> float:
        """Args: both (C, H, W), values in [0, 1]."""
        error = (prediction - target).square().mean().item()
        return math.inf if error == 0 else -10 * math.log10(error)
