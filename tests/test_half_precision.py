"""What bfloat16 costs: on any machine, by products as a device with instructions for it computes them, and on such a CPU."""
import argparse
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models
from common.cli import choose_precision
from engine.evaluation.evaluate import evaluate_scale
from utils import UserError

aten = torch.ops.aten
# of those that work in place or into a given tensor: the operator that returns a new one
NEW = {aten.mm.out: aten.mm.default, aten.addmm.out: aten.addmm.default, aten.addmm_.default: aten.addmm.default,
       aten.bmm.out: aten.bmm.default, aten.baddbmm.out: aten.baddbmm.default, aten.baddbmm_.default: aten.baddbmm.default}
PRODUCTS = {aten.convolution.default, *NEW, *NEW.values()}


class FastProducts(TorchDispatchMode):
    """Products and convolutions of bfloat16 numbers: sums in float32, rounded to bfloat16 at the end.

    PyTorch's own are many times as slow on a CPU without such instructions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return operator(*args, **kwargs)
        self.count += 1
        exact = [x.float() if isinstance(x, torch.Tensor) else x for x in args]
        out = kwargs.pop('out', args[0] if operator in (aten.addmm_.default, aten.baddbmm_.default) else None)
        result = NEW.get(operator, operator)(*exact, **kwargs).bfloat16()
        return result if out is None else out.copy_(result)


def has_instructions() -> bool:
    """Whether this CPU multiplies bfloat16, as the commands ask."""
    try:
        choose_precision(argparse.Namespace(precision='bfloat16'), torch.device('cpu'))
    except UserError:
        return False
    return True


def assert_close_on_set5(set5, scale: int, products: AbstractContextManager) -> None:
    """MSIT-S in bfloat16, with these products, against float32: at most 2 of 255 in any value, and 0.02 dB."""
    model, images = models.load('MSIT-S'), []

    def show(pair, scale, rgb):
        images.append(rgb)

    exact = evaluate_scale(model, set5, scale, torch.device('cpu'), show=show)
    model.precision = torch.bfloat16
    with products:
        half = evaluate_scale(model, set5, scale, torch.device('cpu'), show=show)
    assert half['psnr'] == pytest.approx(exact['psnr'], abs=0.02)
    assert len(images) == 2 * len(set5)
    error = max((a - b).abs().max().item() for a, b in zip(images[:len(set5)], images[len(set5):]))
    print(f"×{scale}: {255 * error:.2f} of 255, {half['psnr'] - exact['psnr']:+.4f} dB")  # pytest -s
    assert 0 < error <= 2 / 255


@pytest.mark.slow
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_half_precision_on_set5(set5, scale, set_threads):
    set_threads(1)  # other threads would not see the mode
    products = FastProducts()
    assert_close_on_set5(set5, scale, products)
    assert products.count > 1000


@pytest.mark.slow
@pytest.mark.skipif(not has_instructions(), reason='this CPU has no instructions for bfloat16')
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_half_precision_of_this_cpu_on_set5(set5, scale):
    assert_close_on_set5(set5, scale, nullcontext())
