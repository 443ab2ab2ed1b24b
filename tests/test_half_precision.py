"""What bfloat16 costs, on any machine: products as a device with instructions for it computes them."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models
from engine.evaluation.evaluate import evaluate_scale

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


@pytest.mark.slow
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_half_precision_on_set5(set5, scale, set_threads):
    """At most 2 of 255 in any value, and 0.02 dB."""
    model, images = models.load('MSIT-S'), []
    set_threads(1)  # other threads would not see the mode below

    def show(pair, scale, rgb):
        images.append(rgb)

    exact = evaluate_scale(model, set5, scale, torch.device('cpu'), show=show)
    model.precision = torch.bfloat16
    with FastProducts() as products:
        half = evaluate_scale(model, set5, scale, torch.device('cpu'), show=show)
    assert products.count > 1000
    assert half['psnr'] == pytest.approx(exact['psnr'], abs=0.02)
    assert len(images) == 2 * len(set5)
    for a, b in zip(images[:len(set5)], images[len(set5):]):
        assert (a - b).abs().max() <= 2 / 255
