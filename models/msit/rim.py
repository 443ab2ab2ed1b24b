"""RIM: the re-parameterised convolution of the second, cumulative stage (paper section III-D), and RefConv.

Shapes: N = C_out·C_in/g kernel slices of k×k, g groups; g = 1 in all of MSIT.

    W' = W + DWConv3×3(W) ⊙ Linear(W)

W is the kernel that stage 1 learnt, a buffer that no gradient reaches. DWConv has one 3×3 kernel for each slice of W,
Linear one scalar: ten parameters a slice, whatever k is. RefConv, the ablation, has no Linear. For inference W' is folded
into an ordinary convolution: the same output at no extra cost.
"""
import torch
from torch import Tensor, nn

from models.msit.conv import Conv2d, conv2d_same


class RefConv2d(nn.Module):
    """"Same" convolution whose kernel is W + DWConv3×3(W), W frozen (RefConv).

    Names and shapes of the tensors are those of released checkpoints: `weight` (C_out, C_in, k, k) is W, a buffer;
    `convmap.weight` (N, 1, 3, 3); `bias` (C_out,), trained.

    Args:
        init: 'identity' starts the map at zero, so that the layer starts as the convolution with kernel W; 'random'
            initialises it like any convolution of PyTorch, as the authors' program does.
        groups: g, of the convolution.
    """

    stage_tensors: tuple[str, ...] = ('convmap.weight',)  # not in the checkpoints of stage 1

    weight: Tensor
    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, init: str = 'identity', groups: int = 1):
        super().__init__()
        if init not in ('identity', 'random'):
            raise ValueError(f"reparam_init is '{init}', expected 'identity' or 'random'")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f'a re-parameterised convolution needs an odd kernel of 3 or more, got {kernel_size}')
        plain = Conv2d(in_channels, out_channels, kernel_size, groups)  # initialises W and the bias
        self.register_buffer('weight', plain.weight.detach())
        self.bias, self.groups = plain.bias, groups
        slices = in_channels * out_channels // groups
        self.convmap = nn.Conv2d(slices, slices, 3, padding=1, groups=slices // groups, bias=False)
        if init == 'identity':
            nn.init.zeros_(self.convmap.weight)

    def mapped(self) -> Tensor:
        """The learnt change of the kernel, (1, N, k, k)."""
        return self.convmap(self.weight.flatten(0, 1).unsqueeze(0))

    def kernel(self) -> Tensor:
        """The effective kernel W', (C_out, C_in/g, k, k)."""
        return self.weight + self.mapped().view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_same(x, self.kernel(), self.bias, self.groups)                 # (B, C_out, H, W)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """The ordinary convolution with the same output."""
        out_channels, in_group, kernel_size, _ = self.weight.shape
        conv = Conv2d(in_group * self.groups, out_channels, kernel_size, self.groups).to(self.weight)
        conv.weight.copy_(self.kernel())
        conv.bias.copy_(self.bias)
        return conv.train(self.training)


class RIMConv2d(RefConv2d):
    """"Same" convolution whose kernel is W + DWConv3×3(W) ⊙ Linear(W), W frozen (RIM).

    `linear.weight` (N, 1, 1, 1) holds Linear's scalars; with init='identity' they start at one.
    """

    stage_tensors = ('convmap.weight', 'linear.weight')

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, init: str = 'identity', groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, init=init, groups=groups)
        slices = in_channels * out_channels // groups
        self.linear = nn.Conv2d(slices, slices, 1, groups=slices, bias=False)
        if init == 'identity':
            nn.init.ones_(self.linear.weight)

    def mapped(self) -> Tensor:
        return super().mapped() * self.linear(self.weight.flatten(0, 1).unsqueeze(0))


REPARAM: dict[str, type[RefConv2d]] = {'rim': RIMConv2d, 'refconv': RefConv2d}


def make_conv(in_channels: int, out_channels: int, kernel_size: int, reparam: str, init: str) -> nn.Module:
    """A dense "same" k×k convolution with bias: ordinary, or re-parameterised by `reparam` ('rim', 'refconv')."""
    if reparam == 'none':
        return Conv2d(in_channels, out_channels, kernel_size)
    if reparam not in REPARAM:
        raise ValueError(f"reparam is '{reparam}', expected one of none, {', '.join(REPARAM)}")
    return REPARAM[reparam](in_channels, out_channels, kernel_size, init=init)


def largest_radius(module: nn.Module) -> int:
    """k // 2 of the largest convolution below `module`, re-parameterised ones included."""
    return max(layer.weight.shape[-1] // 2 for layer in module.modules() if isinstance(layer, (nn.Conv2d, RefConv2d)))


@torch.no_grad()
def init_fan_out(module: nn.Module, reparam_init: str) -> None:
    """Starts the convolutions below `module` from N(0, sqrt(2 / (k·k·out/groups))), biases at zero.

    In a re-parameterised convolution this applies to W, and to its maps if `reparam_init` is 'random'.
    """
    maps = {conv for layer in module.modules() if isinstance(layer, RefConv2d) for conv in layer.children()}
    for layer in module.modules():
        if not isinstance(layer, (nn.Conv2d, RefConv2d)) or (layer in maps and reparam_init == 'identity'):
            continue
        out_channels, _, height, width = layer.weight.shape
        fan_out = height * width * out_channels / getattr(layer, 'groups', 1)
        nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
