"""Residual Swin transformer blocks (RSTB) of SwinIR.

Shapes: B batch, H×W the map, E channels; i×j windows of N = w·w tokens; h heads of d = E/h channels.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

OUTSIDE = -100.0  # added to the logit of two tokens of a window that lie on different sides of the seam


class WindowAttention(nn.Module):
    """Self-attention among the tokens of a window, with a bias for each head and offset of two tokens.

    Args:
        channels, heads: E, h.
        window: w.
        shift: the windows are moved by so many tokens, around the borders of the map; 0 for none. Tokens that only the
            wrapping brings together do not attend to each other.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij')
        y, x = y.flatten(), x.flatten()                                              # (N,) each
        index = (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1
        self.register_buffer('relative_position_index', index, persistent=False)     # (N, N)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, E) → (B, H, W, E); H and W are multiples of w."""
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        tokens = rearrange(x, 'b (i y) (j x) e -> b i j (y x) e', y=self.window, x=self.window)
        query, key, value = rearrange(self.qkv(tokens), 'b i j n (three h d) -> three b i j h n d', three=3, h=self.heads)
        bias = rearrange(self.relative_position_bias_table[self.relative_position_index], 'n m h -> h n m').to(query)
        if self.shift:  # the last windows of both axes hold tokens of both borders
            out = torch.cat([torch.cat([self.attend(query, key, value, bias, last_row, last_column)
                                        for last_column in (False, True)], 2) for last_row in (False, True)], 1)
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out = self.proj(rearrange(out, 'b i j h n d -> b i j n (h d)'))
        out = rearrange(out, 'b i j (y x) e -> b (i y) (j x) e', y=self.window)
        return torch.roll(out, (self.shift, self.shift), (1, 2)) if self.shift else out

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, last_row: bool, last_column: bool) -> Tensor:
        """The attention in the last windows of the axes, or in the others: (B, i, j, h, N, d) → a part of it."""
        beyond = torch.arange(self.window, device=bias.device) >= self.window - self.shift           # of the seam
        y = (beyond & last_row).repeat_interleave(self.window)                       # (N,)
        x = (beyond & last_column).repeat(self.window)
        apart = (y[:, None] != y) | (x[:, None] != x)                                # (N, N)
        rows, columns = (slice(-1, None) if last else slice(0, -1) for last in (last_row, last_column))
        query, key, value = (tensor[:, rows, columns] for tensor in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias + OUTSIDE * apart.to(bias))


class SwinBlock(nn.Module):
    """x + DropPath(attention(LayerNorm(x))), then x + DropPath(MLP(LayerNorm(x))); (B, H, W, E) → (B, H, W, E).

    Args:
        drop_path: the probability that a residual of a sample is left out, in training alone.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window, shift)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ResidualGroup(nn.Module):
    """Swin blocks that follow one another, every second one with shifted windows."""

    def __init__(self, channels: int, heads: int, window: int, mlp_ratio: float, drop_paths: list[float]):
        super().__init__()
        self.blocks = nn.Sequential(*(SwinBlock(channels, heads, window, number % 2 * (window // 2), mlp_ratio, drop_path)
                                      for number, drop_path in enumerate(drop_paths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class RSTB(nn.Module):
    """x + convolution(Swin blocks(x)); (B, H, W, E) → (B, H, W, E)."""

    def __init__(self, channels: int, heads: int, window: int, mlp_ratio: float, drop_paths: list[float]):
        super().__init__()
        self.residual_group = ResidualGroup(channels, heads, window, mlp_ratio, drop_paths)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def init_linear_layers(module: nn.Module) -> None:
    """Starts the linear layers below `module` as Swin transformers do: truncated normal (0.02), biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
