"""MSNO, the multi-scale neural operator: FEM → MSC → SIM (paper section III-B, figure 3).

Shapes: B batch, C base_dim, H×W the LR grid.
"""
from collections.abc import Callable

from torch import Tensor, nn

from models.msit.fem import FEM, AuthorsFEM, NoFEM
from models.msit.msc import MSC
from models.msit.rim import init_fan_out, largest_radius
from models.msit.sim import SIM, ConvMixing

FEM_KINDS: dict[str, Callable[[int], FEM | AuthorsFEM | NoFEM]] = {
    'paper': lambda channels: FEM(), 'authors': AuthorsFEM, 'none': lambda channels: NoFEM()}


class MSNO(nn.Module):
    """Multi-scale features Z'' of the widened encoder features. There is no residual around it.

    Args:
        channels: C.
        convs: t, the parallel convolutions of MSC.
        fem: 'paper' (learnable stride), 'authors' (their fixed kernels) or 'none'.
        sim: False replaces SIM by a 3×3 convolution (ablation).
        reparam, reparam_init: of MSC's convolutions.
    """

    def __init__(self, channels: int, *, convs: int = 16, fem: str = 'paper', sim: bool = True, reparam: str = 'none',
                 reparam_init: str = 'identity'):
        super().__init__()
        if fem not in FEM_KINDS:
            raise ValueError(f"fem is {fem!r}, expected one of {', '.join(FEM_KINDS)}")
        self.modulation = nn.Conv2d(channels, channels, 1, bias=False)               # W_Z of Eq. 6
        self.embed = nn.Conv2d(channels, channels, 1, bias=False)
        self.fem = FEM_KINDS[fem](channels)
        self.msc = MSC(channels, convs, reparam=reparam, reparam_init=reparam_init)
        self.sim = SIM(channels, convs) if sim else ConvMixing(channels)
        self.proj = nn.Conv2d(channels, channels, 1)
        init_fan_out(self, reparam_init)

    @property
    def reach(self) -> int:
        """How many pixels around it an output depends on, without FEM's shifts."""
        return largest_radius(self.msc) + largest_radius(self.sim)

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """(B, C, H, W), the whole image, → Z'' (B, C, H, W).

        With a margin m (FEM's `reach`) x is (B, C, H + 2m, W + 2m): a part of the image, and around it the pixels that the
        shifts read. Beyond the image's border these are the pixels of the opposite side.
        """
        inner = x[:, :, margin:x.shape[2] - margin, margin:x.shape[3] - margin]
        v = self.modulation(inner)                                                   # (B, C, H, W), as all below
        s = self.msc(self.fem(self.embed(x), margin))
        return self.proj(self.sim(s, v))
