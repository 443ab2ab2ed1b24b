"""Registries of the models and their parts, one for each kind, and the annotations of arguments that are specs."""
from typing import Annotated

from common.registry import Registry

MODELS = Registry('model')
ENCODERS = Registry('encoder')
MLPS = Registry('MLP')
BIASES = Registry('positional bias')

register = MODELS.register

EncoderSpec = Annotated[dict, ENCODERS]
MLPSpec = Annotated[dict, MLPS]
BiasSpec = Annotated[dict, BIASES]
