"""The two products of MSSA's scattered queries, without the large arrays that plain PyTorch makes for them.

    query_key_products      query, keys, rows              → logits, before scale and bias
    weighted_first_layer    attention, values, rows, W1    → W1 · weighted values

In plain PyTorch (`mssa.py`) a query gathers K² keys and K² values of C numbers, multiplies both, and keeps three such arrays
for its backward. On CUDA GPUs of compute capability 8.0 and more, with Triton, `kernels.py` forms them tile by tile in
registers: the weighted values inside their product with W1, an implicit matrix product, and again in its backward.

Counted for a query with K² = 49, C = 256, h = 8, M = 256, in float32:

                            multiply-adds                  memory traffic
                        products   first layer     plain      kernels
    forward               12,544     3,223,808   0.40 MB    6 kB, and 0.15 MB of gathers
    backward              25,088     6,460,160   0.70 MB   13 kB, and 0.20 MB of gathers, 0.10 MB of atomic additions
    kept in between                              0.15 MB    3 kB

A training batch of 32 × 2304 queries moves 81 GB on the plain path, 22 passes over 3.7 GB: 24 ms at an H100's 3.35 TB/s, on
top of its arithmetic. The kernels gather from and add to maps of 96 MB, of which those of an image, 3 MB, are in use at a
time and stay in the L2 cache. Arithmetic is then their lower bound: 1.43 · 10¹² operations, which take 1.4 ms at an H100's
peak of 989 · 10¹² a second in bfloat16, and 21 ms at 67 · 10¹² in float32 (A100: 4.6 and 74 ms). These are counts and
data-sheet peaks: nothing was timed on a GPU, and the 1.8 · 10⁹ atomic additions come on top.

Before their first use, `usable` compares the kernels with plain PyTorch on a small case, once per device and type. If they
cannot be compiled, or differ, they are off from then on, and one line says so.

Both are custom operators, not `autograd.Function`s: `torch.compile` uses their registered result shapes and gradients, and
need not trace the launch of a kernel.

Shapes: N queries, or (B, Q) of them, R rows of the maps, C channels of h heads, K² keys of a query, M width of the layer.
"""
import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor


def has_compiler() -> bool:
    """Whether there is Triton, and the C compiler that it needs for the code that launches a kernel."""
    return bool(find_spec('triton') and (os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')))


COMPILER = has_compiler()
DEVICE = 'cuda'  # the kind that the kernels are for


class Case(NamedTuple):
    """Sizes of a check: N, R, C, h, K², M."""
    queries: int
    rows: int
    channels: int
    heads: int
    keys: int
    hidden: int


CASE = Case(queries=130, rows=90, channels=256, heads=8, keys=49, hidden=256)  # the paper's sizes, few queries
# relative to the largest number of a result; a wrong kernel differs far more
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2 ** -7, torch.bfloat16: 2 ** -4}
TF32_TOLERANCE = 2 ** -7
NAMES = ('products', 'hidden', 'gradient of query', 'gradient of keys', 'gradient of attention', 'gradient of values',
         'gradient of weight')

# results of `usable` in this process; a failure turns the kernels off for every device and type
checked: dict[tuple[torch.device, torch.dtype], bool] = {}


def available(x: Tensor) -> bool:
    """Whether the kernels run on tensors like x. Not with deterministic algorithms: they add gradients in any order."""
    return (x.device.type == DEVICE and supported(x.device, x.dtype)
            and not torch.are_deterministic_algorithms_enabled() and usable(x.device, x.dtype))


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels can be used on a device for maps of a type, and gave right results there.

    The first call for a device and type runs the check, except while torch.compile traces: without an earlier check the
    answer is then False. So call it before compiling a model.
    """
    if not supported(device, dtype) or False in checked.values():
        return False
    if (device, dtype) not in checked:
        if torch.compiler.is_compiling():
            return False
        reason = failure(device, dtype)
        checked[device, dtype] = reason is None
        if reason is not None:
            logging.getLogger(__name__).warning(
                "MSSA's GPU kernels are off, plain PyTorch takes their place: on %s in %s, %s", device, dtype, reason)
    return checked[device, dtype]


def supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for a device and a type of maps."""
    return (COMPILER and device.type == DEVICE and torch.version.hip is None
            and dtype in TOLERANCE and torch.cuda.get_device_properties(device).major >= 8)


def failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels fail on a device for maps of a type, by the results and gradients of CASE; None if they are right.

    The numbers come from a separate generator: the global random state does not change.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            inputs, rows, grads = example(CASE, device, dtype)
            expected = results(plain_results, inputs, rows, grads, torch.float64)
            actual = results(fused_results, inputs, rows, grads, None)
        tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        tolerance = TF32_TOLERANCE if tf32 else TOLERANCE[dtype]
        for name, a, e in zip(NAMES, actual, expected, strict=True):
            error = ((a.double() - e).abs().max() / e.abs().max()).item()
            if not error <= tolerance:  # NaN included
                return f'{name} differs from plain PyTorch by {error:.2g} of the largest, expected at most {tolerance:.2g}'
    except Exception as error:  # a compiler, a driver or a GPU may raise anything
        return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
    return None


def example(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, tuple[Tensor, Tensor]]:
    """Noise: query, keys, attention, values, weight; rows; and gradients of the products and hidden units."""
    n, r, c, h, k, m = case
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, to)

    inputs = [noise(n, c), noise(r, c), noise(n, k, h, to=torch.float32).softmax(1), noise(r, c), noise(m, k * c)]
    rows = torch.randint(r, (n, k), generator=generator).to(device)
    return inputs, rows, (noise(n, k, h, to=torch.float32), noise(n, m))


def results(compute: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor], rows: Tensor, grads: tuple[Tensor, Tensor],
            dtype: torch.dtype | None) -> list[Tensor]:
    """Products, hidden units, and the gradients of the five inputs; computed in `dtype`, or in the types they have."""
    leaves = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in inputs]
    outputs = compute(*leaves, rows)
    gradients = torch.autograd.grad(outputs, leaves, [grad.to(dtype or grad.dtype) for grad in grads])
    return [*(output.detach() for output in outputs), *gradients]


def fused_results(query: Tensor, keys: Tensor, attention: Tensor, values: Tensor, weight: Tensor,
                  rows: Tensor) -> tuple[Tensor, Tensor]:
    return products_op(query, keys, rows, attention.shape[2]), first_layer_op(attention, values, rows, weight)


def plain_results(query: Tensor, keys: Tensor, attention: Tensor, values: Tensor, weight: Tensor,
                  rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `mssa.py` computes them."""
    heads = attention.shape[2]
    near_keys, near_values = (source[rows].unflatten(2, (heads, -1)) for source in (keys, values))   # (N, K², h, d)
    products = (query.unflatten(1, (heads, -1)).unsqueeze(1) * near_keys).sum(-1)    # (N, K², h)
    return products, (attention.unsqueeze(-1) * near_values).flatten(1).to(weight.dtype) @ weight.T


def query_key_products(query: Tensor, keys: Tensor, rows: Tensor, heads: int) -> Tensor:
    """products[q, k, h] = Σ_d query[q, h, d] · keys[rows[q, k], h, d]; needs `available`.

    Args:
        query: (B, Q, C).
        keys: (R, C).
        rows: (B, Q, K²) int64, in [0, R).
    Returns: (B, Q, K², h), float32.
    """
    return products_op(query.flatten(0, 1), keys, rows.flatten(0, 1), heads).unflatten(0, rows.shape[:2])


def weighted_first_layer(attention: Tensor, values: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """hidden[q, m] = Σ_k,h,d weight[m, k, h, d] · attention[q, k, h] · values[rows[q, k], h, d]; needs `available`.

    Args:
        attention: (B, Q, K², h).
        values: (R, C).
        rows: (B, Q, K²) int64, in [0, R).
        weight: (M, K²·C). Its type, under autocast that of autocast, is the result's; sums are float32.
    Returns: (B, Q, M).
    """
    if torch.is_autocast_enabled('cuda'):
        values, weight = (x.to(torch.get_autocast_dtype('cuda')) for x in (values, weight))
    return first_layer_op(attention.flatten(0, 1), values, rows.flatten(0, 1), weight).unflatten(0, rows.shape[:2])


# the operators behind them, on N queries

def load_kernels() -> ModuleType:
    """`kernels.py`, which imports Triton: no command needs it before the first kernel."""
    from models.msit import kernels
    return kernels


@torch.library.custom_op('msit::query_key_products', mutates_args=())
def products_op(query: Tensor, keys: Tensor, rows: Tensor, heads: int) -> Tensor:
    """(N, C), (R, C), (N, K²) → (N, K², h) float32."""
    return load_kernels().query_key_products(query.contiguous(), keys.contiguous(), rows.contiguous(), heads)


@torch.library.custom_op('msit::query_key_products_backward', mutates_args=())
def products_backward_op(grad: Tensor, query: Tensor, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of query and keys, in the types of these."""
    return load_kernels().query_key_products_backward(*contiguous(grad, query, keys, rows))


@torch.library.custom_op('msit::weighted_first_layer', mutates_args=())
def first_layer_op(attention: Tensor, values: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """(N, K², h), (R, C), (N, K²), (M, K²·C) → (N, M) of the weight's type."""
    return load_kernels().weighted_first_layer(*contiguous(attention, values, rows, weight))


@torch.library.custom_op('msit::weighted_first_layer_backward_inputs', mutates_args=())
def inputs_backward_op(grad: Tensor, attention: Tensor, values: Tensor, rows: Tensor,
                       weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of attention and values, in the types of these."""
    return load_kernels().inputs_backward(*contiguous(grad, attention, values, rows, weight))


@torch.library.custom_op('msit::weighted_first_layer_backward_weight', mutates_args=())
def weight_backward_op(grad: Tensor, attention: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Gradient of the weight."""
    return load_kernels().weight_backward(*contiguous(grad, attention, values, rows))


def contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


# shapes of their results, for tracing

@products_op.register_fake
def _(query, keys, rows, heads):
    return query.new_empty(*rows.shape, heads, dtype=torch.float32)


@products_backward_op.register_fake
def _(grad, query, keys, rows):
    return query.new_empty(query.shape), keys.new_empty(keys.shape)


@first_layer_op.register_fake
def _(attention, values, rows, weight):
    return weight.new_empty(rows.shape[0], weight.shape[0])


@inputs_backward_op.register_fake
def _(grad, attention, values, rows, weight):
    return attention.new_empty(attention.shape), values.new_empty(values.shape)


@weight_backward_op.register_fake
def _(grad, attention, values, rows):
    return grad.new_empty(grad.shape[1], rows.shape[1] * values.shape[1])


# gradients

def save_products(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])


def products_backward(ctx, grad):
    return *products_backward_op(grad, *ctx.saved_tensors), None, None


def save_first_layer(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def first_layer_backward(ctx, grad):
    attention, values, rows, weight = ctx.saved_tensors
    grad_attention = grad_values = grad_weight = None
    if any(ctx.needs_input_grad[:2]):
        grad_attention, grad_values = inputs_backward_op(grad, attention, values, rows, weight)
    if ctx.needs_input_grad[3]:
        grad_weight = weight_backward_op(grad, attention, values, rows)
    return grad_attention, grad_values, None, grad_weight


def refuse_second_backward(ctx, *grads):
    raise NotImplementedError('the kernels of MSSA can be differentiated once, not twice')


products_op.register_autograd(products_backward, setup_context=save_products)
first_layer_op.register_autograd(first_layer_backward, setup_context=save_first_layer)
for op in (products_backward_op, inputs_backward_op, weight_backward_op):
    op.register_autograd(refuse_second_backward)
