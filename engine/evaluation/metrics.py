"""PSNR and SSIM by the published protocols.

Images are (3, H, W) tensors, RGB in [0, 1]; the scores are Python floats, PSNR in dB. Both are computed in float64 on
what a protocol leaves: 'benchmark' the luma Y without a border of ceil(s) pixels, 'div2k' RGB without ceil(s) + 6.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.evaluation import border
from utils import UserError

LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)  # of BT.601, as MATLAB's rgb2ycbcr scales it
LUMA_OFFSET = 16 / 256
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


def evaluated_region(image: Tensor, protocol: str, scale: float) -> Tensor:
    """What `protocol` compares: (3, H, W) RGB in [0, 1] → (C, H', W') float64, C = 1 (Y) or 3 (RGB).

    Raises: UserError when the border leaves nothing of the image.
    """
    removed = border(protocol, scale)
    height, width = image.shape[1:]
    if min(height, width) <= 2 * removed:
        raise UserError(f"an image of {height}x{width} is too small for protocol '{protocol}' at scale {scale:g}, "
                        f'which removes {removed} pixels at each side')
    image = image[:, removed:height - removed, removed:width - removed].double()
    if protocol == 'div2k':
        return image
    return torch.einsum('chw,c->hw', image, image.new_tensor(LUMA)).unsqueeze(0) + LUMA_OFFSET


def psnr(prediction: Tensor, target: Tensor) -> float:
    """−10·log10 of the mean squared difference, in dB; infinite for equal images. Same shapes, values in [0, 1]."""
    error = (prediction - target).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(prediction: Tensor, target: Tensor) -> float:
    """Mean structural similarity, in [−1, 1]: Gaussian windows wholly inside the image, data range 1.

    Args: both (C, H, W) in [0, 1]; channels are averaged. Not a number when a side is below the window's 11 pixels.
    """
    if min(prediction.shape[1:]) < SSIM_WINDOW:
        return math.nan
    position = torch.arange(SSIM_WINDOW, dtype=prediction.dtype, device=prediction.device) - SSIM_WINDOW // 2
    window = torch.exp(-position.square() / (2 * SSIM_SIGMA ** 2))
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:                                                   # (C, H, W) → (C, H − 10, W − 10)
        x = F.conv2d(x.unsqueeze(1), window.view(1, 1, -1, 1))
        return F.conv2d(x, window.view(1, 1, 1, -1)).squeeze(1)

    mean_p, mean_t = blur(prediction), blur(target)
    variance_p = blur(prediction.square()) - mean_p.square()
    variance_t = blur(target.square()) - mean_t.square()
    covariance = blur(prediction * target) - mean_p * mean_t
    c1, c2 = SSIM_K1 ** 2, SSIM_K2 ** 2
    similarity = ((2 * mean_p * mean_t + c1) * (2 * covariance + c2)
                  / ((mean_p.square() + mean_t.square() + c1) * (variance_p + variance_t + c2)))
    return similarity.mean().item()
