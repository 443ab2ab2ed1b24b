"""What MSIT computes inside: outputs of MSC's convolutions, SIM, attention, re-parameterised kernels.

The modules of a network are found by their names, and read by hooks: the network is the one that is measured.

Shapes: H×W the LR grid, C base_dim, t convolutions of MSC, Q queries, K = 2r + 1 keys along an axis, h heads.
"""
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.coords import nearest_index
from models.contract import SRModel
from utils import UserError


class Features(NamedTuple):
    """Of one LR image.

    convs: (C/t, H, W) of each convolution of MSC, by the side of its kernel.
    before, after: (C, H, W) around SIM, or around the convolution in its place; the modulation is part of it.
    """
    convs: dict[int, Tensor]
    before: Tensor
    after: Tensor


class Attention(NamedTuple):
    """Of queries to the K² LR pixels around each.

    weights: (Q, h, K, K), of sum 1 for each head of each query.
    centres: (Q, 2) int64, the LR pixel (y, x) in the middle of each window.
    """
    weights: Tensor
    centres: Tensor


class Kernel(NamedTuple):
    """Of a re-parameterised convolution: W of stage 1 and the effective W', both (C_out, C_in, k, k)."""
    name: str
    before: Tensor
    after: Tensor


def part_of(model: SRModel, path: str, what: str, label: str) -> Any:
    """A module of a network. Raises: UserError for a network without it.

    Args:
        path: its name.
        what: it is, and label: the network's name, for the message.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UserError(f'-model {label}: this network has no {what}; choose one of kind msit') from error


@torch.no_grad()
def features(model: SRModel, lr: Tensor, label: str) -> Features:
    """The features of one LR image, (1, 3, H, W) in [0, 1]. Raises: UserError for a network without MSC and SIM.

    Args:
        label: the network's name, for the message.
    """
    sim = part_of(model, 'msno.sim', 'SIM', label)
    convs = part_of(model, 'msno.msc.convs', 'MSC', label)
    outputs: dict[nn.Module, Tensor] = {}
    inputs: list[Tensor] = []
    with ExitStack() as stack:
        for module in (*convs.children(), sim):
            hook = module.register_forward_hook(lambda module, given, output: outputs.__setitem__(module, output[0].cpu()))
            stack.callback(hook.remove)
        stack.callback(sim.register_forward_pre_hook(lambda module, given: inputs.append(given[0][0].cpu())).remove)
        model.encode(model.normalise_lr(lr))
    return Features({conv.weight.shape[-1]: outputs[conv] for conv in convs.children()},
                    inputs[0], outputs[sim])


@torch.no_grad()
def attention(model: SRModel, lr: Tensor, coord: Tensor, label: str) -> Attention:
    """The attention of queries over one LR image. Raises: UserError for a network without local attention of this kind.

    Args:
        lr: (1, 3, H, W) in [0, 1].
        coord: (Q, 2) float64.
        label: the network's name, for the message.
    """
    mssa = part_of(model, 'mssa', 'MSSA', label)
    latent = model.encode(model.normalise_lr(lr))
    _, weights = mssa.attend(latent.maps, coord.unsqueeze(0).to(lr.device))         # (1, Q, K², h)
    side = 2 * mssa.radius + 1
    centres = torch.stack([nearest_index(coord[:, axis], lr.shape[2 + axis]) for axis in (0, 1)], -1)
    return Attention(weights[0].transpose(1, 2).unflatten(2, (side, side)).cpu(), centres)


@torch.no_grad()
def kernels(model: SRModel, label: str) -> list[Kernel]:
    """The kernels of all re-parameterised convolutions of a network that is not folded. Raises: UserError without any."""
    found = [Kernel(name, module.weight, module.kernel()) for name, module in model.named_modules()
             if hasattr(module, 'stage_tensors')]
    if not found:
        raise UserError(f'-model {label}: this network has no re-parameterised convolutions, or they are folded; choose a '
                        'checkpoint of stage 2 from save/, or two files: of stage 1 and of stage 2')
    return found


def compared_kernels(first: SRModel, second: SRModel, labels: tuple[str, str]) -> list[Kernel]:
    """The k×k kernels of MSNO and MSSA in a network of stage 1 and in one of stage 2, both folded.

    Raises: UserError unless both networks have the same ones.
    """
    before, after = (_large_kernels(model) for model in (first, second))
    if not before or {name: weight.shape for name, weight in before.items()} != {
            name: weight.shape for name, weight in after.items()}:
        raise UserError(f"-model {' '.join(labels)}: expected two networks of kind msit whose convolutions have the same "
                        'sizes, of stage 1 and of stage 2')
    return [Kernel(name, weight, after[name]) for name, weight in before.items()]


def _large_kernels(model: SRModel) -> dict[str, Tensor]:
    """The kernels that stage 2 re-parameterises, by the name of their convolution."""
    return {name: module.weight.detach() for name, module in model.named_modules()
            if name.startswith(('msno.msc.', 'mssa.')) and isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1}
