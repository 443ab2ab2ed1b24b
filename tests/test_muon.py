"""Muon against singular value decompositions in float64, updates by hand, and torch's Adam."""
import io

import pytest
import torch
from torch import nn

import models
from engine.training.muon import Muon, is_matrix, orthogonalise
from engine.training.schedule import OPTIMIZERS
from utils import UserError


def by_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """The five polynomials applied to the singular values of a matrix (m, n), one number at a time."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    length = values.square().sum().sqrt()
    pushed = []
    for value in (values / length).tolist():
        for _ in range(5):
            value = 3.4445 * value - 4.7750 * value ** 3 + 2.0315 * value ** 5
        pushed.append(value)
    return u @ torch.diag(torch.tensor(pushed, dtype=torch.float64)) @ v


@pytest.mark.parametrize('shape', [(8, 8), (10, 31), (31, 10), (48, 432)])
def test_orthogonalise_pushes_singular_values(shape):
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    for matrix, orthogonal in zip(matrices, result):
        assert (orthogonal - by_singular_values(matrix)).abs().max() < 1e-10
    if shape != (8, 8):  # a square one may have values near 0, which stay small
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6 and values.max() < 1.25


def test_orthogonalise_sizes():
    """A factor changes nothing, down to 1e-7, where matrices fade away instead of dividing by an underflown norm."""
    matrix = torch.randn(1, 8, 9, generator=torch.Generator().manual_seed(0))
    matrix /= matrix.norm()
    assert (orthogonalise(matrix) - orthogonalise(1e-6 * matrix)).abs().max() < 1e-4
    for size in (1e-14, 1e-23, 1e-40, 0):
        assert orthogonalise(size * matrix).abs().max() <= 1e-4


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_steps_of_a_convolution(memory_format):
    """Two steps with momentum 0.9: averages 0.1 g1 and 0.09 g1 + 0.1 g2, each one step ahead, times 0.2 √27 lr."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(9, 3, 3, 3, dtype=torch.float64).to(memory_format=memory_format))
    before = weight.detach().clone()
    first, second = torch.randn(2, 9, 3, 3, 3, dtype=torch.float64)
    optimizer = Muon([weight], lr=0.01, momentum=0.9)
    for gradient in (first, second):
        weight.grad = gradient.clone().to(memory_format=memory_format)
        optimizer.step()
    directions = [0.1 * first + 0.9 * 0.1 * first, 0.1 * second + 0.9 * (0.09 * first + 0.1 * second)]
    expected = before - 0.01 * 0.2 * 27 ** 0.5 * sum(
        by_singular_values(direction.reshape(9, 27)).reshape(9, 3, 3, 3) for direction in directions)
    assert (weight - expected).abs().max() < 1e-6  # the matrices are float32


def test_size_of_updates():
    """A root mean square of about 0.2 lr, whatever the shape."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in [(128, 576), (64, 64, 3, 3), (512, 16)]]
    for weight in weights:
        weight.grad = 1e-4 * torch.randn_like(weight)
    Muon(weights, lr=1.0).step()
    for weight in weights:
        assert 0.14 < weight.square().mean().sqrt() < 0.25


def test_others_are_trained_by_adam():
    """Vectors, scalars, weights with fewer than 8 rows or columns, and depthwise kernels, over five steps."""
    torch.manual_seed(0)
    shapes = [(5,), (), (7, 30), (30, 1, 3, 2), (64, 1, 3, 3), (20, 1, 1, 1), (12, 1, 7, 7)]
    mine, theirs = ([nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes] for _ in range(2))
    optimizers = Muon(mine, lr=0.1, betas=(0.8, 0.9)), torch.optim.Adam(theirs, lr=0.1, betas=(0.8, 0.9))
    for _ in range(5):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(mine, theirs):
        assert (a - b).abs().max() < 1e-12 and (a - 1).abs().min() > 0


def test_modules_by_the_shape_of_their_weights(tiny_msit):
    """Dense and grouped convolutions and linear layers are matrices; RIM's maps, one kernel for each slice, are Adam's."""
    tiny_msit['args'] |= {'base_dim': 64, 'reparam': 'rim'}
    tiny_msit['args']['encoder_spec']['args']['n_feats'] = 16
    model = models.make(tiny_msit)
    matrices = {name for name, weight in model.named_parameters() if is_matrix(weight)}
    maps = {name for name, _ in model.named_parameters() if name.endswith(('convmap.weight', 'linear.weight'))}
    assert len(maps) == 10 and not maps & matrices
    assert {'widen.weight', 'encoder.body.0.body.0.weight', 'msno.sim.within.weight', 'msno.sim.across.weight'} <= matrices
    assert model.msno.sim.within.weight.shape == (128, 32, 1, 1)  # two groups
    assert not any(name.endswith('.bias') for name in matrices)


def test_a_file_that_counted_depthwise_kernels_among_the_matrices_is_continued():
    """Its average belongs to another method: all averages of the weight start afresh, as the first step of Adam does."""
    weight = nn.Parameter(torch.zeros(9, 1, 3, 3))
    optimizer = Muon([weight], lr=0.1)
    optimizer.state[weight] = {'step': 100, 'average': torch.full_like(weight, 7.0)}
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert torch.allclose(weight, torch.full_like(weight, -0.1)) and optimizer.state[weight]['step'] == 1


def test_groups_have_their_rates_and_what_has_no_gradient_stays():
    weights = [nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    optimizer = Muon([{'params': weights[:1], 'lr': 0.1}, {'params': weights[1:]}], lr=0.2)
    for weight in weights[:2]:
        weight.grad = torch.eye(8)
    optimizer.step()
    assert torch.equal(2 * weights[0], weights[1]) and weights[0].abs().max() > 0
    assert weights[2].abs().max() == 0


def test_state_survives_a_checkpoint():
    """The third step after a restart is the third step without one, bit by bit."""
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 16), nn.GELU(), nn.Linear(16, 3))

    def steps(model, optimizer, numbers):
        for number in numbers:
            x = torch.randn(4, 9, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    straight = network()
    steps(straight, Muon(straight.parameters()), range(3))
    stopped = network()
    optimizer = Muon(stopped.parameters())
    steps(stopped, optimizer, range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = Muon(stopped.parameters())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    steps(stopped, resumed, [2])
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), stopped.parameters()))


@pytest.mark.parametrize(('args', 'message'), [
    ({'lr': -1}, '-1'), ({'momentum': 1}, '1'), ({'betas': [0.9]}, '0.9'), ({'betas': [0.9, 1.5]}, '1.5'),
    ({'scale': 0}, '0'), ({'momentun': 0.9}, "'momentum'")])
def test_bad_arguments(args, message):
    with pytest.raises(UserError) as error:
        OPTIMIZERS.make({'name': 'muon', 'args': args}, 'optimizer', params=[nn.Parameter(torch.zeros(3))])
    assert str(error.value).startswith('optimizer.args') and message in str(error.value)
