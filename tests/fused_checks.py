"""Checks of the kernels of `models/msit/fused.py`, forward and backward, against float64 autograd of the defining sums.

They run wherever Triton does: test_fused.py runs them on the CPU through Triton's interpreter (TRITON_INTERPRET=1, which has
to be set before Triton is imported), test_fused_cuda.py compiled, on a GPU.
"""
import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import models
from common.coords import make_cell
from models.msit import fused, kernels
from models.msit.fused import Case

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
# of the largest number of a result: a 16-bit result is rounded once, and sums of rounded terms hide a little more
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2 ** -9, torch.bfloat16: 2 ** -6}
HALVES = (torch.float16, torch.bfloat16)

CASES = [
    Case(queries=66, rows=40, channels=8, heads=2, keys=9, hidden=16),
    Case(queries=130, rows=30, channels=12, heads=3, keys=2, hidden=20),    # sides that are no powers of two
    Case(queries=5, rows=4, channels=8, heads=8, keys=1, hidden=3),         # one key, heads of one channel
    Case(queries=9, rows=5, channels=36, heads=2, keys=4, hidden=300),      # several tiles of hidden units
    Case(queries=17, rows=6, channels=160, heads=1, keys=3, hidden=33),     # several tiles of a head's channels
    Case(queries=6, rows=60, channels=80, heads=20, keys=8, hidden=16),     # several of heads, and of keys
    Case(queries=1, rows=2, channels=1, heads=1, keys=1, hidden=1),
]
SMALL = Case(queries=66, rows=7, channels=6, heads=3, keys=3, hidden=20)


class Inputs(NamedTuple):
    query: Tensor       # (N, C)
    keys: Tensor        # (R, C), row 0 as beyond the image's border
    attention: Tensor   # (N, K², h)
    values: Tensor      # (R, C), likewise
    weight: Tensor      # (M, K²·C)
    rows: Tensor        # (N, K²)
    grads: tuple[Tensor, Tensor]  # (N, K², h), (N, M)

    def leaves(self) -> list[Tensor]:
        return [tensor.requires_grad_() for tensor in self[:5]]

    def double(self) -> 'Inputs':
        return Inputs(*(tensor.detach().double() for tensor in self[:5]), self.rows,
                      tuple(grad.double() for grad in self.grads))


def make_inputs(case: Case, dtype: torch.dtype = torch.float32) -> Inputs:
    """Noise; query, maps and weight of a type, the attention a float32 softmax, as it is under autocast."""
    generator = torch.Generator().manual_seed(0)
    n, r, c, h, k, m = case

    def noise(*shape: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, to)

    keys, values = noise(r, c), noise(r, c)
    keys[0] = values[0] = 0
    rows = torch.randint(r, (n, k), generator=generator).to(DEVICE)
    attention = noise(n, k, h, to=torch.float32).softmax(1)
    grads = noise(n, k, h, to=torch.float32), noise(n, m)
    return Inputs(noise(n, c), keys, attention, values, noise(m, k * c), rows, grads)


def kernel_results(x: Inputs) -> list[Tensor]:
    """Products, hidden units, and the gradients of query, keys, attention, values and weight."""
    leaves = x.leaves()
    outputs = (fused.products_op(x.query, x.keys, x.rows, x.attention.shape[2]),
               fused.first_layer_op(x.attention, x.values, x.rows, x.weight))
    return [*outputs, *torch.autograd.grad(outputs, leaves, x.grads)]


def defined_results(x: Inputs) -> list[Tensor]:
    """The same by the defining sums over head h and channel d, in the type of x."""
    leaves = x.leaves()
    (n, k, h), m = x.attention.shape, len(x.weight)
    keys, values = (source[x.rows].view(n, k, h, -1) for source in (x.keys, x.values))
    outputs = (torch.einsum('nhd,nkhd->nkh', x.query.view(n, h, -1), keys),
               torch.einsum('nkh,nkhd,mkhd->nm', x.attention, values, x.weight.view(m, k, h, -1)))
    return [*outputs, *torch.autograd.grad(outputs, leaves, x.grads)]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert (actual.double() - expected).abs().max() <= tolerance * expected.abs().max()


def assert_right(x: Inputs, float32: float = TOLERANCE[torch.float32]) -> None:
    """Results and gradients of x, float32 ones to this tolerance."""
    dtype = x.values.dtype
    expected = defined_results(x.double())
    actual = kernel_results(x)
    # products, and the gradient of attention, are float32 whatever they are products of
    assert [tensor.dtype for tensor in actual] == [torch.float32, dtype, dtype, dtype, torch.float32, dtype, dtype]
    assert_near(actual[0], expected[0], float32)
    assert not actual[0][x.rows == 0].any()
    for a, e in zip(actual[1:], expected[1:]):
        assert_near(a, e, float32 if dtype == torch.float32 else TOLERANCE[dtype])


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """Triton's interpreter keeps bfloat16 as 16-bit integers and multiplies matrices of them as such."""
    if not INTERPRETED:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
    create_dot = InterpreterBuilder.create_dot

    def widened(x: TensorHandle) -> TensorHandle:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    monkeypatch.setattr(InterpreterBuilder, 'create_dot',
                        lambda self, a, b, *rest: create_dot(self, widened(a), widened(b), *rest))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_float32(case):
    assert_right(make_inputs(case))


@pytest.mark.parametrize('dtype', HALVES)
def test_16_bit(dtype):
    assert_right(make_inputs(SMALL, dtype))


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_they_pass_the_check_before_their_first_use(dtype, monkeypatch):
    if INTERPRETED:  # the paper's sizes would take minutes
        monkeypatch.setattr(fused, 'CASE', SMALL)
    assert fused.failure(torch.zeros(0, device=DEVICE).device, dtype) is None


def test_tiles_for_large_memory(monkeypatch):
    monkeypatch.setattr(kernels, 'has_large_memory', lambda device: True)
    assert_right(make_inputs(CASES[4], torch.float16))


def test_sums_over_several_programs(monkeypatch):
    """The gradient of the weight is a sum over programs, those of maps and attention over hidden units or keys too."""
    monkeypatch.setattr(kernels, 'PART_N', 32)
    monkeypatch.setattr(kernels, 'BLOCK_KEYS', 2)
    assert_right(make_inputs(SMALL))


def test_rows_that_all_queries_share():
    """Everything is 1 and every key lies in row 3: gradients are counts, exact in float32."""
    n, r, c, h, k, m = 70, 5, 8, 2, 9, 16
    ones = [torch.ones(shape, device=DEVICE) for shape in ((n, c), (r, c), (n, k, h), (r, c), (m, k * c))]
    rows = torch.full((n, k), 3, device=DEVICE)
    x = Inputs(*ones, rows, (torch.ones(n, k, h, device=DEVICE), torch.ones(n, m, device=DEVICE)))
    results = kernel_results(x)
    of_row = (torch.arange(r, device=DEVICE) == 3).float().unsqueeze(1)              # (R, 1)
    for actual, expected in zip(results, (c // h, k * c, k, of_row * n * k, c // h * m, of_row * n * k * m, n)):
        assert torch.equal(actual, torch.zeros_like(actual) + expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_no_queries(dtype):
    x = make_inputs(SMALL._replace(queries=0), dtype)
    results = kernel_results(x)
    assert [tensor.shape for tensor in results[2:]] == [tensor.shape for tensor in x[:5]]
    assert [tensor.shape for tensor in results[:2]] == [(0, SMALL.keys, SMALL.heads), (0, SMALL.hidden)]
    assert not any(tensor.any() for tensor in results)
    kernels.launch(None, (0, 2), {}, x.rows)  # there is no grid without programs on a GPU


def test_memory_that_is_not_contiguous():
    """Weights cut from wider ones, gradients that are an expanded number, maps and queries stored the other way round."""
    x = make_inputs(SMALL)
    x = x._replace(weight=torch.cat([x.weight, x.weight[:, :2]], 1)[:, :-2], query=x.query.T.contiguous().T,
                   keys=x.keys.T.contiguous().T, rows=x.rows.T.contiguous().T,
                   grads=tuple(torch.ones((), device=DEVICE).expand(grad.shape) for grad in x.grads))
    assert not any(tensor.is_contiguous() for tensor in (x.weight, x.query, x.keys, x.rows, *x.grads))
    assert_right(x)


@pytest.mark.parametrize('frozen', [(0, 2), (1, 3), (2, 3), (4,)], ids=str)
def test_inputs_without_gradient(frozen):
    x = make_inputs(SMALL)
    expected = defined_results(x.double())[2:]
    leaves = x.leaves()
    for i in frozen:
        leaves[i].requires_grad_(False)
    learn = [i for i in range(5) if i not in frozen]
    outputs = (fused.products_op(x.query, x.keys, x.rows, SMALL.heads),
               fused.first_layer_op(x.attention, x.values, x.rows, x.weight))
    actual = torch.autograd.grad(outputs, [leaves[i] for i in learn], x.grads)
    for i, a in zip(learn, actual):
        assert_near(a, expected[i], TOLERANCE[torch.float32])


def test_second_derivatives_are_refused():
    x = make_inputs(SMALL)
    leaves = x.leaves()
    for output, inputs in ((fused.products_op(x.query, x.keys, x.rows, SMALL.heads), leaves[:2]),
                           (fused.first_layer_op(x.attention, x.values, x.rows, x.weight), leaves[2:])):
        for leaf in inputs:
            grad, = torch.autograd.grad(output.square().sum(), leaf, create_graph=True)
            with pytest.raises(NotImplementedError, match='once, not twice'):
                grad.sum().backward()


def test_operators_keep_torchs_contract():
    """No argument is changed, results have the types and shapes that are registered for tracing."""
    x = make_inputs(SMALL, torch.float16)
    layer = (x.attention, x.values, x.rows, x.weight)
    for op, arguments in ((fused.products_op, (x.query, x.keys, x.rows, SMALL.heads)),
                          (fused.products_backward_op, (x.grads[0], x.query, x.keys, x.rows)),
                          (fused.first_layer_op, layer),
                          (fused.inputs_backward_op, (x.grads[1], *layer)),
                          (fused.weight_backward_op, (x.grads[1], *layer[:3]))):
        checks = ('test_schema', 'test_faketensor')
        assert torch.library.opcheck(op, arguments, test_utils=checks) == dict.fromkeys(checks, 'SUCCESS')


def msit_results(model: torch.nn.Module, monkeypatch, kernels_run: bool) -> list[Tensor]:
    """RGB of a forward pass and the gradients of all parameters, by the kernels or by plain PyTorch."""
    monkeypatch.setattr(fused, 'available', lambda x: kernels_run)
    generator = torch.Generator().manual_seed(1)
    lr, coord = (torch.rand(shape, generator=generator).to(DEVICE) for shape in ((2, 3, 6, 5), (2, 40, 2)))
    cell = make_cell(13, 11).expand(2, 2).to(DEVICE)
    rgb = model(lr, coord.double() * 2 - 1, cell)
    return [rgb, *torch.autograd.grad(rgb.square().mean(), list(model.parameters()))]


def test_msit_is_the_same_by_both_paths(tiny_msit, monkeypatch):
    torch.manual_seed(0)
    model = models.make(tiny_msit).to(DEVICE).eval()
    plain = msit_results(model, monkeypatch, False)
    calls = []
    launch = kernels.launch
    monkeypatch.setattr(kernels, 'launch', lambda kernel, *rest: [calls.append(kernel.__name__), launch(kernel, *rest)])
    actual = msit_results(model, monkeypatch, True)
    assert sorted(calls) == ['first_layer_kernel', 'inputs_backward_kernel', 'products_backward_kernel', 'products_kernel',
                             'weight_backward_kernel']
    for name, a, e in zip(['rgb', *(name for name, _ in model.named_parameters())], actual, plain, strict=True):
        if name == 'mssa.position_bias.proj.bias':  # shifts all logits alike
            assert max(a.abs().max(), e.abs().max()) < 1e-9
        else:
            assert e.any()
            assert_near(a, e.double(), 1e-4)


@pytest.mark.parametrize('dtype', HALVES)
def test_autocast_casts_as_the_linear_layer_would(dtype):
    """The product is 16-bit, and its gradient reaches the float32 weight as float32."""
    x = make_inputs(SMALL)
    attention, values, weight = (tensor.requires_grad_() for tensor in (x.attention, x.values, x.weight))
    rounded = x._replace(values=x.values.to(dtype), weight=x.weight.to(dtype), grads=(x.grads[0], x.grads[1].to(dtype)))
    expected = defined_results(rounded.double())
    enabled, before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    try:
        torch.set_autocast_enabled('cuda', True)
        torch.set_autocast_dtype('cuda', dtype)
        hidden = fused.weighted_first_layer(attention.unsqueeze(0), values, x.rows.unsqueeze(0), weight)
    finally:
        torch.set_autocast_enabled('cuda', enabled)
        torch.set_autocast_dtype('cuda', before)
    assert hidden.dtype == dtype
    grads = torch.autograd.grad(hidden[0], (attention, values, weight), rounded.grads[1])
    assert [grad.dtype for grad in grads] == [torch.float32] * 3
    for a, e in zip((hidden[0], *grads), (expected[1], *expected[4:])):
        assert_near(a, e, TOLERANCE[dtype])


def test_compiled_without_a_break():
    x = make_inputs(SMALL)
    leaves = x.leaves()

    def loss(query, keys, attention, values, weight):
        products = fused.query_key_products(query.unsqueeze(0), keys, x.rows.unsqueeze(0), SMALL.heads)
        hidden = fused.weighted_first_layer(attention.unsqueeze(0), values, x.rows.unsqueeze(0), weight)
        return products.sin().sum() + hidden.sin().sum()

    eager = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.autograd.grad(torch.compile(loss, backend='aot_eager', fullgraph=True)(*leaves), leaves)
    for a, e in zip(compiled, eager):
        assert_near(a, e.double(), TOLERANCE[torch.float32])
