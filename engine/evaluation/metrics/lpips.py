"""Learned perceptual image patch similarity (Zhang et al., CVPR 2018, arXiv 1801.03924), with AlexNet.

The features of torchvision's AlexNet after each of its five ReLUs are normalised to length 1 over the channels. Their
squared differences are weighted by channel, averaged over the pixels and summed over the layers.

Needs torchvision (`pip install torchvision`) and the learnt weights in one file, modelzoo/lpips/alex.pth or where
the environment variable LPIPS_WEIGHTS says. It is a state dict of

    lin{0…4}.model.1.weight         (1, C, 1, 1): weights of the channels, as the authors' v0.1/alex.pth names them
    features.{0,3,6,8,10}.weight    and .bias: AlexNet's convolutions, as torchvision names them; may be left out, and are
                                    then those that torchvision downloads or has in its cache
"""
import math
import os
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from common.scales import AnyScale
from datasets.protocols import Protocol
from engine.evaluation.metrics.base import Metric, register
from utils import ROOT, UserError

WEIGHTS, VARIABLE = ROOT / 'modelzoo' / 'lpips' / 'alex.pth', 'LPIPS_WEIGHTS'
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
LEAST_SIDE = 31  # pixels: smaller images end in one of AlexNet's poolings
EPSILON = 1e-10


@register
class LPIPS(Metric):
    """Perceptual distance, at least 0, of RGB in [0, 1] without the protocol's border.

    Args:
        weights: file of the learnt weights; None for LPIPS_WEIGHTS or modelzoo/lpips/alex.pth.
        backbone: makes the layers whose ReLUs give the features: with trained weights where its argument is True.
    Raises: UserError that names what is missing, and how to get it.
    """
    name = 'lpips'
    heading = 'LPIPS'
    decimals = 4
    higher_is_better = False

    def __init__(self, *, weights: str | None = None, backbone: Callable[[bool], nn.Sequential] | None = None):
        path = Path(weights or os.environ.get(VARIABLE) or WEIGHTS)
        missing = [] if backbone or find_spec('torchvision') else ['torchvision (pip install torchvision)']
        if not path.is_file():
            missing.append(f"{path}, the weights of LPIPS (the authors' v0.1/alex.pth; the environment variable {VARIABLE} "
                           'names another place)')
        if missing:
            raise UserError(f"-metrics lpips: missing: {'; '.join(missing)}")
        self.layers, self.channel_weights = _build(_read_weights(path), backbone or alexnet, path)

    def region(self, image: Tensor, protocol: Protocol, scale: AnyScale) -> Tensor:
        return protocol.inside(image, scale).float()

    @torch.no_grad()
    def score(self, prediction: Tensor, target: Tensor) -> float:
        """Args: both (3, H, W), RGB in [0, 1]. Returns: NaN when a side is below 31 pixels."""
        if min(prediction.shape[1:]) < LEAST_SIDE:
            return math.nan
        x = torch.stack([prediction, target])                                        # (2, 3, H, W)
        x = (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(STD).view(3, 1, 1)
        features, distance = self._features(x), 0.0
        for (p, t), weight in zip(features, self.channel_weights, strict=True):      # (C, h, w) twice, (C,)
            difference = (_unit(p) - _unit(t)).square()
            distance += torch.einsum('chw,c->hw', difference, weight.to(x.device)).mean().item()
        return distance

    def _features(self, x: Tensor) -> list[Tensor]:
        """(2, 3, H, W) → the output of every ReLU, (2, C, h, w)."""
        found = []
        for layer in self.layers.to(x.device):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


def _unit(features: Tensor) -> Tensor:
    """(C, h, w) with every pixel's vector of channels scaled to length 1."""
    return features / (features.square().sum(0, keepdim=True).sqrt() + EPSILON)


def alexnet(pretrained: bool) -> nn.Sequential:
    """The convolutional part of torchvision's AlexNet. Raises: UserError where its trained weights cannot be had."""
    from torchvision import models  # an optional extra
    try:
        return models.alexnet(weights=models.AlexNet_Weights.IMAGENET1K_V1 if pretrained else None).features
    except OSError as error:
        raise UserError(f"-metrics lpips: AlexNet's weights are neither in torchvision's cache ({torch.hub.get_dir()}) nor "
                        f'could they be downloaded: {error}') from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file. Raises: UserError when it is not one."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f'-metrics lpips: {path}: not a file of tensors, or a damaged one') from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'-metrics lpips: {path}: expected a state dict of tensors')
    return state


def _build(state: dict[str, Tensor], backbone: Callable[[bool], nn.Sequential],
          path: Path) -> tuple[nn.Sequential, list[Tensor]]:
    """The layers, and the weights (C,) of the channels after each of their ReLUs, from the tensors of a file.

    Raises: UserError when the tensors are not those that the layers need.
    """
    trained = {name.removeprefix('features.'): value for name, value in state.items() if name.startswith('features.')}
    layers = backbone(not trained)
    channels = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
    names = [f'lin{number}.model.1.weight' for number in range(len(channels))]
    try:
        if trained:
            layers.load_state_dict(trained)
        weights = [state[name].float().view(count) for name, count in zip(names, channels)]
    except (KeyError, RuntimeError) as error:
        raise UserError(f"-metrics lpips: {path}: expected {', '.join(names)} of {channels} channels, and all or none of "
                        f"AlexNet's tensors; got {', '.join(state) or 'none'}") from error
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
    return layers[:last + 1].eval(), weights
