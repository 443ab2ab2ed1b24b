""""Same" convolutions, each in the form that was measured to be fastest for its size and device.

Kernels of MSC go up to 33×33 on 16 channels. From 15×15 on PyTorch's direct convolution is slow on CPUs, its backward by
factors of 3 to 200; products of spectra give the same sums, more precisely. `benchmarks/convolutions.py` measures both.

Shapes: B batch, C_in and C_out channels, k odd kernel size, r = k // 2, H×W the image.
"""
from bisect import bisect_left
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FFT_KERNEL = 15  # the smallest k whose spectra win on CPUs, forward and backward together
CHANNELS_LAST_KERNEL = 7  # from here on channels last wins there, forward alone: its backward is slow
# even numbers without prime factors beyond 5: transforms of such lengths are fast
FAST_LENGTHS = sorted(2 ** a * 3 ** b * 5 ** c for a, b, c in product(range(1, 17), range(10), range(7)))
# for every length up to 4096, the smallest of them that is no smaller
NEXT_FAST = [FAST_LENGTHS[bisect_left(FAST_LENGTHS, length)] for length in range(2 ** 12 + 1)]


class Conv2d(nn.Conv2d):
    """Ordinary convolution k×k with bias that keeps the size: (B, C_in, H, W) → (B, C_out, H, W)."""

    bias: Tensor  # there is always one

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, padding='same', groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_same(x, self.weight, self.bias, self.groups)


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """(B, C_in, H, W) convolved with (C_out, C_in/groups, k, k), zeros beyond the border → (B, C_out, H, W)."""
    spectra = x.device.type == 'cpu' and weight.shape[-1] >= FFT_KERNEL and groups == 1
    if spectra and not torch.compiler.is_exporting():  # exported programs know convolutions
        exact = torch.promote_types(x.dtype, torch.float32)  # there are no spectra in half precision
        return fft_conv2d(x.to(exact), weight.to(exact), bias.to(exact)).to(x.dtype)
    if x.device.type == 'cpu' and weight.shape[-1] >= CHANNELS_LAST_KERNEL and not torch.is_grad_enabled():
        x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, padding='same', groups=groups)


def fft_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same sums by products of spectra, exact to rounding; differentiable.

    Large images are cut into blocks that overlap by 2r (overlap-save), so that the spectra of the kernels stay small. One
    block needs r zeros behind it, which its wrap-around reads as those before it.
    """
    height, width = x.shape[2:]
    radius = weight.shape[-1] // 2
    plans, longest = [], NEXT_FAST[5 * radius]
    for length in (height, width):  # size of a block's transform, its step, number of blocks
        step = length if length + radius <= longest else longest - 2 * radius
        plans.append((NEXT_FAST[length + radius] if step == length else longest, step, -(-length // step)))
    (size_y, step_y, blocks_y), (size_x, step_x, blocks_x) = plans
    pad_y, pad_x = (blocks_y - 1) * step_y + size_y - height - radius, (blocks_x - 1) * step_x + size_x - width - radius
    blocks = F.pad(x, (radius, pad_x, radius, pad_y)).unfold(2, size_y, step_y).unfold(3, size_x, step_x)

    spectrum = rearrange(torch.fft.rfft2(blocks), 'b i m n y x -> (y x) (b m n) i')  # m×n blocks, y×x frequencies
    kernel = rearrange(torch.fft.rfft2(weight, s=(size_y, size_x)), 'o i y x -> (y x) i o')
    # contiguous: a product of many small complex matrices would otherwise copy them one by one
    factors = spectrum.contiguous(), kernel.contiguous().conj_physical()
    spectrum = SpectralProduct.apply(*factors) if torch.is_grad_enabled() else torch.matmul(*factors)
    spectrum = rearrange(spectrum, '(y x) (b m n) o -> b o m n y x', b=len(x), m=blocks_y, y=size_y)

    blocks = torch.fft.irfft2(spectrum, s=(size_y, size_x))[..., :step_y, :step_x]   # the rest has wrapped around
    out = rearrange(blocks, 'b o m n y x -> b o (m y) (n x)')[:, :, :height, :width]
    return out + bias.to(out).view(-1, 1, 1)


class SpectralProduct(torch.autograd.Function):
    """a @ b of contiguous complex matrices (N, m, k), (N, k, n) → (N, m, n), whose gradients are such products too."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = grad.contiguous()
        return grad @ b.mT.contiguous().conj_physical(), a.mT.contiguous().conj_physical() @ grad
