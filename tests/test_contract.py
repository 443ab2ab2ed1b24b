"""What every model offers: inputs and types, windows of an encoded image, an unchanged model, one graph, few hops."""
import copy
import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message
from PIL import Image
from test_models import TINY, sizes, variant

import models
from common.coords import Region, make_cell, make_grid
from models import upscale
from models.latents import LatentCache
from models.memory import peak_bytes
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
NAMES = pytest.mark.parametrize('name', sorted(TINY))
WITHOUT_WINDOWS = ('sronet', 'srno')                  # their queries depend on each other
FIXED = ('edsr-baseline', 'rdn')


def image(batch: int = 1, height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a.double() - b.double()).abs().max().item()


# what goes in

def test_the_same_image_in_every_form_gives_the_same_result(tiny_msit):
    """8 bits as tensor, array and Pillow image; their values divided by 255 as float16, float32, float64."""
    model = models.make(tiny_msit).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    lr = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]
    expected = model.upscale(lr, (15, 20))
    for form in (torch.from_numpy(pixels).permute(2, 0, 1)[None], pixels, pixels[None], Image.fromarray(pixels), lr.double(),
                 lr[0].permute(1, 2, 0).numpy(), pixels.astype(np.uint16) * np.uint16(257), pixels / 255):
        assert largest(model.upscale(form, (15, 20)), expected) < 1e-6
    assert largest(model.upscale(lr.half(), (15, 20)), expected) < 1e-2
    grey = Image.fromarray(pixels[..., 0])
    assert largest(model.upscale(grey, (15, 20)), model.upscale(np.repeat(pixels[..., :1], 3, 2), (15, 20))) == 0


@pytest.mark.parametrize('wrong, words', [
    *((tensor, f'expected a dense tensor of uint8 or floating-point numbers, got a tensor of {kind}') for tensor, kind in (
        (torch.zeros(1, 3, 7, 9, dtype=torch.int64), 'torch.int64'),
        (torch.zeros(1, 3, 7, 9, dtype=torch.bool), 'torch.bool'),
        (torch.zeros(1, 3, 7, 9, dtype=torch.complex64), 'torch.complex64'),
        (torch.zeros(1, 3, 7, 9).to_sparse(), 'torch.float32, torch.sparse_coo'),
        (torch.zeros(1, 3, 7, 9, device='meta'), 'torch.float32, without values'),
        (torch.zeros(1, 3, 7, 9).to(torch.float8_e4m3fn), 'torch.float8_e4m3fn'))),
    (torch.zeros(0, 3, 7, 9), 'expected images of shape (B, 3, H, W), got (0, 3, 7, 9)'),
    (np.zeros((0, 9, 3)), 'got (1, 3, 0, 9)'), (np.zeros((7, 9, 3), object), 'got object'),
    (np.zeros((7, 9, 3), np.longdouble), f'got {np.dtype(np.longdouble)}'), (np.zeros((7, 9, 3), complex), 'got complex128'),
    *((Image.new(mode, (9, 7)), f"got '{mode}'") for mode in ('LA', 'CMYK', 'YCbCr', 'HSV', 'LAB', 'F', 'I')),
    (torch.full((1, 3, 7, 9), 200.0), 'expected RGB in [0, 1], got values from 200 to 200'),
    (torch.full((1, 3, 7, 9), -1.0), 'expected RGB in [0, 1], got values from -1 to -1'),
    (torch.full((1, 3, 7, 9), torch.nan), 'expected RGB in [0, 1], got values from nan to nan'),
    (torch.zeros(3, 7, 9), 'expected images of shape (B, 3, H, W), got (3, 7, 9)'),
    (torch.zeros(1, 4, 7, 9), 'got (1, 4, 7, 9)'), (torch.zeros(1, 3, 0, 9), 'got (1, 3, 0, 9)'),
    (np.zeros((7, 9), np.uint8), 'expected images of shape (B, 3, H, W)'),
    (np.zeros((7, 9, 4), np.uint8), 'expected images of shape (B, 3, H, W)'),
    (np.zeros((7, 9, 3), np.int32), 'expected an array of uint8, uint16 or floating-point numbers, got int32'),
    (np.zeros((7, 9, 3), bool), 'got bool'), (np.full((7, 9, 3), 255.0), 'got values from 255 to 255'),
    (Image.new('RGBA', (9, 7)), "of mode RGB, L, P or 1, got 'RGBA'"), (Image.new('I;16', (9, 7)), "got 'I;16'"),
    ([[0.5]], 'expected a tensor, a NumPy array or a Pillow image, got list'), ('photo.png', 'got str'),
    (None, 'got NoneType')])
def test_anything_else_is_refused_by_name(tiny_msit, wrong, words):
    model = models.make(tiny_msit).eval()
    for ask in (lambda: model.upscale(wrong, (15, 20)), lambda: model.encode_image(wrong)):
        with pytest.raises(UserError) as error:
            ask()
        assert words in str(error.value) and '\n' not in str(error.value)


WRONG_SIZES = ((15.0, 20), (15.5, 20), 15, (15,), (15, 20, 3), '15x20', ('15', '20'), None, (True, True), (0, 20), (-15, 20),
               (10 ** 9, 10 ** 9), (10 ** 30, 20), (10 ** 5000, 20), (float('nan'), 20), (float('inf'), 20),
               np.array([15, 20]), [[15, 20]])


@pytest.mark.parametrize('size', WRONG_SIZES, ids=range(len(WRONG_SIZES)))
def test_sizes_that_are_none(tiny_msit, size):
    model = models.make(tiny_msit).eval()
    encoded = model.encode_image(image())
    for ask, name in ((lambda: model.upscale(image(), size), 'upscale'), (
            lambda: model.render(encoded, (0, 0, 7, 9), size), 'render')):
        assert message(ask).startswith(f'{name}: expected a size (height, width) of ')


@pytest.mark.parametrize(('settings', 'words'), [
    *(({'memory': value}, 'expected as memory a number of bytes, such as 2 ** 30, got') for value in (
        '1G', '500', -1, True, float('nan'), float('inf'), 2 ** 61, [2 ** 30])),
    *(({'halo': value}, 'expected as halo a whole number of pixels from 0, got') for value in (-1, 1.5, '3', True, [3]))])
def test_memory_and_halo_that_are_none(tiny_msit, settings, words):
    model = models.make(tiny_msit).eval()
    assert f'upscale: {words}' in message(model.upscale, image(), (15, 20), **settings)
    if 'memory' in settings:
        encoded = model.encode_image(image())
        assert f'render: {words}' in message(model.render, encoded, (0, 0, 7, 9), (15, 20), **settings)


@pytest.mark.parametrize('size', [(15, 20), [15, 20], torch.Size([15, 20]), (np.int64(15), np.uint8(20))], ids=repr)
def test_sizes_of_every_kind(tiny_msit, size):
    model = models.make(tiny_msit).eval()
    assert torch.equal(model.upscale(image(), size, memory=2e9), model.upscale(image(), (15, 20)))
    window = [np.float32(0), 0, np.int64(7), 9.0]
    assert model.render(model.encode_image(image()), window, size).shape == (1, 3, 15, 20)


def test_arrays_of_every_byte_order(tiny_msit):
    model, pixels = models.make(tiny_msit).eval(), np.random.default_rng(0).random((7, 9, 3))
    for kind in ('>f4', '<f4', '>f8', '<f8'):
        assert largest(model.upscale(pixels.astype(kind), (15, 20)), model.upscale(pixels, (15, 20))) < 1e-6
    levels = (pixels * 65535).astype(np.uint16)
    assert torch.equal(model.upscale(levels.astype('>u2'), (15, 20)), model.upscale(levels, (15, 20)))


LR, COORD, CELL = torch.zeros(2, 3, 7, 9), torch.zeros(2, 5, 2), torch.full((2, 2), 0.1)


@pytest.mark.parametrize(('arguments', 'words'), [
    (((np.zeros((2, 3, 7, 9)), COORD, CELL)), 'expected lr to be a dense tensor of floating-point numbers, got ndarray'),
    ((LR.byte(), COORD, CELL), 'expected lr to be a dense tensor of floating-point numbers, got a tensor of torch.uint8'),
    ((LR, COORD.long(), CELL), 'expected coord to be'), ((LR, COORD.tolist(), CELL), 'expected coord to be'),
    ((LR, COORD, 0.1), 'expected cell to be a dense tensor of floating-point numbers, got float'),
    ((LR, COORD, CELL.to_sparse()), 'expected cell to be'), ((LR.bool(), COORD, CELL), 'expected lr to be'),
    ((LR.double(), COORD, CELL), 'expected lr of torch.float32, as the weights are, got torch.float64'),
    ((LR.half(), COORD, CELL), 'expected lr of torch.float32, as the weights are, got torch.float16'),
    *((wrong, 'expected lr (B, 3, H, W), coord (B, Q, 2) and cell (B, 2), got') for wrong in (
        (LR[0], COORD, CELL), (LR[:, :2], COORD, CELL), (LR[:1], COORD, CELL), (LR, COORD[0], CELL), (LR, COORD, CELL[:1]),
        (LR, COORD[..., :1], CELL), (LR, COORD, CELL[:, :1]), (LR, COORD, CELL[0]))),
    ((LR[:, :, :0], COORD, CELL), 'which are empty'),
    ((LR, COORD[:, :0], CELL), 'which are empty'),
    *(((LR, torch.full_like(COORD, value), CELL), f'expected coordinates (y, x) in [-1, 1], got values from {value:g}')
      for value in (1.1, -5.0, float('nan'), float('inf'), 1e9)),
    *(((LR, COORD, torch.full_like(CELL, value)), 'expected cells (height, width) above 0 and finite, got values from')
      for value in (0.0, -0.1, float('nan'), float('inf')))])
def test_queries_that_are_none(tiny_msit, arguments, words):
    text = message(models.make(tiny_msit).eval(), *arguments)
    assert text.startswith('forward: ') and words in text


def test_a_window_of_something_else(tiny_msit):
    model = models.make(tiny_msit).eval()
    assert message(model.render, image(), (0, 0, 7, 9), (15, 20)) == (
        'render: expected what encode_image returned, got Tensor')
    assert 'encode_image: expected a size' in message(model.encode_image, image(), side=0)


# types

@NAMES
@pytest.mark.parametrize('dtype, error', [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.12)])
def test_models_work_in_other_types(name, dtype, error):
    """float32's result to the precision of the type; `upscale` and `forward` agree."""
    model = variant(name, 0)
    size = sizes(model)[-1]
    expected = model.upscale(image(), size)
    other = copy.deepcopy(model).to(dtype)
    sr = other.upscale(image(), size)
    assert sr.dtype == dtype and largest(sr, expected) < error
    coord, cell = make_grid(*size).view(1, -1, 2), make_cell(*size).view(1, 2)
    with torch.no_grad():
        rgb = other(image().to(dtype), coord, cell).clamp(0, 1)
    assert largest(rgb.view(1, *size, 3).permute(0, 3, 1, 2), sr) < error


@NAMES
def test_models_work_under_autocast(name):
    model = variant(name, 0)
    size = sizes(model)[-1]
    with torch.autocast('cpu', torch.bfloat16):
        sr = model.upscale(image(), size)
    assert sr.dtype == torch.float32 and largest(sr, model.upscale(image(), size)) < 0.12


# the model stays what it is

@NAMES
def test_upscaling_does_not_change_a_model_in_training(name):
    """Neither its mode, nor a bit of its state: batch norm uses its running statistics, and keeps them."""
    model = variant(name, 0)
    size = sizes(model)[-1]
    expected = model.upscale(image(2), size)
    model.train()
    frozen = next(iter(model.children()), model).eval()                              # a part that somebody froze
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(model.upscale(image(2), size), expected)
    model.render(model.encode_image(image(2)), (0, 0, 7, 9), size)
    assert model.training or frozen is model
    assert not frozen.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# windows

@NAMES
@pytest.mark.parametrize('scale', [2, 2.5, 1.5, 4])
def test_a_window_is_that_part_of_the_whole_grid(name, scale):
    """Lines 8 to 20 and columns 5 to 25 of the grid."""
    model, lr = variant(name, 0), image(2, 12, 14)
    if name in FIXED and scale != model.fixed_scale:
        pytest.skip('another factor than its own')
    height, width = round(12 * scale), round(14 * scale)
    whole = model.upscale(lr, (height, width))
    encoded = model.encode_image(lr)
    assert largest(model.render(encoded, (0, 0, 12, 14), (height, width)), whole) < 1e-6
    if name in WITHOUT_WINDOWS:
        with pytest.raises(UserError, match='depend on each other'):
            model.render(encoded, (0, 0, 12, 13), (height, width))
        return
    top, bottom, left, right = 8, min(20, height), 5, min(25, width)
    part = model.render(encoded, (top / scale, left / scale, bottom / scale, right / scale), (bottom - top, right - left))
    expected = whole[:, :, top:bottom, left:right]
    assert largest(part, expected) < 1e-5
    assert largest(model.render(model.encode_image(lr, side=5), (0, 0, 12, 14), (height, width)), whole) < 1e-5  # in regions
    assert expected.std() > 0.01


def test_windows_at_real_edges_sizes_and_factors(tiny_msit):
    """The coordinates by hand: pixel i of h lies at top + (i + ½)/h of the window, and the cell is its height."""
    model, lr = models.make(tiny_msit).eval(), image(1, 12, 14)
    top, left, bottom, right = window = (2.25, 3.1, 7.75, 11.6)
    y = 2 * (top + (bottom - top) * (np.arange(30) + 0.5) / 30) / 12 - 1
    x = 2 * (left + (right - left) * (np.arange(17) + 0.5) / 17) / 14 - 1
    coord = torch.from_numpy(np.stack(np.meshgrid(y, x, indexing='ij'), -1).reshape(1, -1, 2))
    cell = torch.tensor([[2 * (bottom - top) / 30 / 12, 2 * (right - left) / 17 / 14]], dtype=torch.float64)
    with torch.no_grad():
        expected = model(lr, coord, cell).clamp(0, 1).view(1, 30, 17, 3).permute(0, 3, 1, 2)
    encoded = model.encode_image(lr)
    assert largest(model.render(encoded, window, (30, 17)), expected) < 1e-5
    assert largest(model.render(encoded, window, (30, 17), memory=10_000), expected) < 1e-5      # in many bands
    assert model.render(encoded, (5.1, 6.2, 5.2, 6.3), (40, 50)).shape == (1, 3, 40, 50)         # ×400 inside a pixel


def test_regions_are_encoded_when_a_window_needs_them(tiny_msit):
    """12×14 pixels in regions of 4×5, 5 and 4: the window needs the four around (8, 5)."""
    model, cache = models.make(tiny_msit).eval(), LatentCache(memory=2 ** 30)
    encoded, encoder, calls = model.encode_image(image(1, 12, 14), side=5, cache=cache), model.encoder, []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    assert len(encoded.regions) == 9 and not calls and cache.held == 0
    model.render(encoded, (7, 3, 9, 6), (20, 20))
    assert len({region for region in encoded.regions if region.overlap(Region(7, 9, 3, 6, 12, 14))}) == 4
    first, held = len(calls), cache.held
    assert first >= 4 and held > 0
    model.render(encoded, (7, 3, 8.5, 5.5), (30, 10))
    assert len(calls) == first and cache.held == held                                # nothing twice
    del encoded
    gc.collect()
    assert cache.held == 0


def test_latents_beyond_the_memory_are_dropped():
    """Of 400 bytes each, with 1000 allowed: the two used last stay."""
    cache, made = LatentCache(memory=1000), []

    def get(name):
        return cache.get(name, lambda: made.append(name) or torch.zeros(100))
    for name in 'ab' 'a' 'c' 'a' 'b':
        get(name)
    assert made == ['a', 'b', 'c', 'b'] and cache.held == 800
    small = LatentCache(memory=1)
    assert small.get('x', lambda: torch.ones(100)) is small.get('x', lambda: torch.zeros(100)) and small.held == 400


@pytest.mark.parametrize('window, size, message', [
    ((0, 0, 12.5, 14), (5, 5), 'inside (0, 0, 12, 14)'), ((-1, 0, 5, 5), (5, 5), 'inside'), ((3, 0, 3, 5), (5, 5), 'inside'),
    ((0, 6, 5, 5), (5, 5), 'inside'), ((0, 0, float('nan'), 5), (5, 5), 'four numbers'),
    ((0, 0, 10 ** 5000, 5), (5, 5), 'four numbers'), ((0, 0, 5), (5, 5), 'four numbers'), ('0055', (5, 5), 'four numbers'),
    (('0', 0, 5, 5), (5, 5), 'four numbers'), (torch.tensor([0, 0, 5, 5]), (5, 5), 'four numbers'),
    ((0, 0, 5, 5), (0, 5), 'whole numbers from 1')])
def test_wrong_windows(tiny_msit, window, size, message):
    model = models.make(tiny_msit).eval()
    with pytest.raises(UserError) as error:
        model.render(model.encode_image(image(1, 12, 14)), window, size)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_fixed_scale_network_renders_at_its_factor_alone():
    model = variant('edsr-baseline', 0)
    encoded = model.encode_image(image(1, 12, 14))
    assert model.render(encoded, (1, 2, 4, 6), (6, 8)).shape == (1, 3, 6, 8)
    with pytest.raises(UserError, match='by exactly 2, got 3 by 2'):
        model.render(encoded, (1, 2, 4, 6), (9, 8))


# memory

def test_peak_bytes_by_hand():
    """Views and tensors from before take nothing; what is dropped is free again."""
    given = torch.zeros(1000)

    def compute():
        a = given + 1                      # 4,000 bytes
        b = a.view(10, 100) * 2            # 8,000
        del a                              # 4,000
        c = torch.cat([b, b, b])           # 16,000
        del b, c                           # nothing
        return given.view(20, 50)[:3] + 1  # 600

    with torch.no_grad():
        assert peak_bytes(compute) == 16_000
    with torch.inference_mode():
        assert peak_bytes(compute) == 16_000


def test_the_plan_is_made_of_options_alone(monkeypatch, tiny_msit):
    """Whatever is free: the memory of the machine is never asked for."""
    model, lr = models.make(tiny_msit).eval(), image(1, 60, 64)
    monkeypatch.setattr(Path, 'read_text', lambda *args, **kwargs: pytest.fail('reads a file'))
    with torch.no_grad():
        plans = [upscale.plan_regions(model, lr, lr.shape[2:], 2 ** 21, None) for _ in range(2)]
    assert plans[0] == plans[1] and len(plans[0][0]) > 1
    assert torch.equal(model.upscale(lr, (90, 96), memory=2 ** 21), model.upscale(lr, (90, 96), memory=2 ** 21))


# one graph, and few hops

@pytest.mark.slow
@pytest.mark.parametrize('args', [{'base_dim': 16, 'msc_convs': 8}, {}, {'fem': 'authors'}, {'reparam': 'rim'}])
def test_the_training_forward_is_one_graph(tiny_msit, args):
    """Spectra of large kernels (17×17) and FEM's stride included."""
    torch.compiler.reset()
    spec = {'name': 'msit', 'args': {**tiny_msit['args'], **args}}
    model = models.make(spec).train()
    lr, coord, cell = image(2), torch.rand(2, 20, 2, dtype=torch.float64) * 2 - 1, make_cell(14, 18).expand(2, 2)
    plain = model(lr, coord, cell)
    plain.square().mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)(lr, coord, cell)
    compiled.square().mean().backward()
    assert largest(compiled, plain) < 1e-5
    for name, parameter in model.named_parameters():
        assert largest(parameter.grad, gradients[name]) < 1e-4 * max(1, gradients[name].abs().max().item()), name


def passed_through(function) -> set[tuple[str, int, str]]:
    """File and name of every function of the project that a call passes, generator expressions and lambdas among them."""
    passed = set()

    def profile(frame, event, argument) -> None:
        code = frame.f_code
        if event == 'call' and Path(code.co_filename).is_relative_to(ROOT) and '.venv' not in code.co_filename:
            passed.add((code.co_filename, code.co_firstlineno, code.co_name))
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return {place for place in passed if Path(place[0]).parent != ROOT / 'tests'}


def test_a_call_passes_few_functions(set_threads):
    """Who reads one `upscale`, or one training step's `forward`, from top to bottom."""
    set_threads(1)
    model, lr = models.load('MSIT-S'), image(1, 20, 20)
    model.upscale(lr, (40, 40))
    upscaled = passed_through(lambda: model.upscale(lr, (40, 40)))
    coord, cell = make_grid(40, 40).view(1, -1, 2)[:, :50], make_cell(40, 40).view(1, 2)
    model.train()
    forwarded = passed_through(lambda: model(lr, coord, cell))
    assert 20 < len(upscaled) <= 55 and len({file for file, *_ in upscaled}) <= 13, sorted(upscaled)
    assert 20 < len(forwarded) <= 35, sorted(forwarded)
