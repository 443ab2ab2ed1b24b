"""The fused path of MSSA's queries on a GPU: the checks of fused_checks.py, compiled, and some at the paper's sizes."""
import os

import pytest
import torch

from models.msit import fused
from models.msit.fused import Case

if not torch.cuda.is_available() or os.environ.get('TRITON_INTERPRET') == '1':
    pytest.skip('needs a CUDA GPU', allow_module_level=True)
if not fused.available(torch.zeros(1, device='cuda')):
    pytest.skip('needs Triton and a GPU of compute capability 8.0', allow_module_level=True)

from fused_checks import *  # noqa: F403
from fused_checks import DEVICE, TOLERANCE, assert_near, assert_right, defined_results, make_inputs

import models
from common.coords import make_cell

PAPER = Case(queries=2 * 2304, rows=2 * 54 * 54, channels=256, heads=8, keys=49, hidden=256)
LONG_SUMS = 1e-5  # of 12,544 terms or of 4608, in float32
SPEC = {'name': 'msit', 'args': {
    'encoder_spec': {'name': 'edsr-baseline', 'args': {'no_upsampling': True}},
    'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [256, 256, 256, 256], 'act': 'gelu'}},
}}


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_full_size(dtype):
    assert_right(make_inputs(PAPER, dtype), LONG_SUMS)


def test_tf32_only_where_it_is_allowed():
    """By default float32 is exact (test_full_size); where TF32 is allowed, its 10 bits are seen, and no fewer."""
    x = make_inputs(PAPER)
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        hidden = fused.first_layer_op(x.attention, x.values, x.rows, x.weight)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    expected = defined_results(x.double())[1]
    assert_near(hidden, expected, 2 ** -9)
    with pytest.raises(AssertionError):
        assert_near(hidden, expected, LONG_SUMS)


def test_more_numbers_than_32_bits_count():
    """180,000 queries have 2.26 · 10⁹ weighted values; the last 100 are right, and so are rows that only they have."""
    case, last, half = PAPER._replace(queries=180_000), 100, PAPER.rows // 2
    x = make_inputs(case, torch.bfloat16)
    x.rows[:-last] %= half
    x.rows[-last:] = half + x.rows[-last:] % half
    tail = x._replace(query=x.query[-last:], attention=x.attention[-last:], rows=x.rows[-last:],
                      grads=tuple(grad[-last:] for grad in x.grads))
    expected = defined_results(tail.double())
    leaves = x.leaves()
    outputs = (fused.products_op(x.query, x.keys, x.rows, case.heads),
               fused.first_layer_op(x.attention, x.values, x.rows, x.weight))
    query, keys, attention, values = torch.autograd.grad(outputs, leaves[:4], x.grads)
    for a, e in ((outputs[0][-last:], expected[0]), (outputs[1][-last:], expected[1]), (query[-last:], expected[2]),
                 (keys[half:], expected[3][half:]), (attention[-last:], expected[4]), (values[half:], expected[5][half:])):
        assert_near(a, e, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_full_msit_is_the_same_by_both_paths(monkeypatch, dtype):
    """RGB, and gradients of the maps and all that comes after them; the kernels need less than half of the memory."""
    torch.manual_seed(0)
    model = models.make(SPEC).to(DEVICE)
    lr, coord = torch.rand(4, 3, 48, 48, device=DEVICE), torch.rand(4, 2304, 2, device=DEVICE).double() * 2 - 1
    cell = make_cell(100, 120, DEVICE).expand(4, 2)
    learned = [*model.imnet.named_parameters(), ('frequencies', model.mssa.position_bias.proj.weight)]
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
        latent = model.encode(model.normalise_lr(lr))
    learned += [('queries', latent.maps.queries), ('values', latent.maps.values)]
    results, memory = {}, {}
    for path in ('kernels', 'plain'):
        if path == 'plain':
            monkeypatch.setattr(fused, 'available', lambda x: False)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            rgb = model.query(latent, coord, cell)
        grads = torch.autograd.grad(rgb.float().square().mean(), [tensor for _, tensor in learned], retain_graph=True)
        memory[path] = torch.cuda.max_memory_allocated() - before
        results[path] = [rgb.detach(), *grads]
        del rgb
    for a, e in zip(results['kernels'], results['plain']):
        assert e.any()
        assert_near(a, e.double(), 1e-4 if dtype == torch.float32 else 0.05)
    assert memory['kernels'] < memory['plain'] / 2
