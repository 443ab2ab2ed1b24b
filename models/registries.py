"""Registries of the models and their parts, one for each kind, and the annotations of arguments that are specs."""
from typing import Annotated

from common.ranges import AtMost
from common.registry import Registry

MOST = AtMost(4096)  # of widths, blocks and all other numbers

MODELS = Registry('model', MOST)
ENCODERS = Registry('encoder', MOST)
MLPS = Registry('MLP', MOST)
BIASES = Registry('positional bias', MOST)

register = MODELS.register

EncoderSpec = Annotated[dict, ENCODERS]
Widths = Annotated[list[int], AtMost(4096, length=64)]
MLPSpec = Annotated[dict, MLPS]
BiasSpec = Annotated[dict, BIASES]
Depth = Annotated[int, AtMost(512)]  # blocks or layers that follow one another
Radius = Annotated[int, AtMost(32)]  # of a local attention, in LR pixels
