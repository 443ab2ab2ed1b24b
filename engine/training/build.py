"""From a config to the parts of a run: the network, the training samples, the validation set."""
import os
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import datasets
import models
from common.quiet import silence_libraries
from common.registry import SpecError
from datasets.evaluation import Evaluation
from datasets.sampling import DrawSampler
from engine.distributed import World, synchronise_batch_norm
from engine.training.pretrain import load_stage1
from engine.training.step import DTYPES
from models.contract import SRModel


def build_model(config: dict, device: torch.device, world: World, pretrain: Path | None) -> tuple[SRModel, str | None, int]:
    """The model on its device.

    Returns: the model, a line about the stage-1 checkpoint `pretrain` where it starts from one, and that one's iterations.
    """
    model = models.make(config['model'], config.get('data_norm'))
    line, iterations = None, 0
    if pretrain:
        line, iterations = world.broadcast(load_stage1(model, config['model'], pretrain) if world.main else None)
    memory_format = torch.channels_last if config.get('channels_last') else torch.contiguous_format
    model = model.to(device).to(memory_format=memory_format)
    model = synchronise_batch_norm(model, device) if world.size > 1 else model
    model.use_kernels(config.get('fused', True), DTYPES[config.get('precision', 'float32')])
    return model, line, iterations


def build_network(config: dict, model: SRModel, world: World) -> nn.Module:
    """What a training step calls; checkpoints and validation use the model itself."""
    network = world.wrap(model)
    return compiled(network) if config.get('compile') else network


def build_loader(config: dict, data_root: Path, device: torch.device, world: World) -> tuple[DataLoader, DrawSampler]:
    """This process's share of the training samples, and the sampler that chooses them."""
    spec, seed = config['train_dataset'], config.get('seed', 0)
    dataset = datasets.make(spec, data_root, 'train_dataset')
    if not hasattr(dataset, 'draw_scales'):
        raise SpecError(f"train_dataset.wrapper.name: '{spec['wrapper']['name']}' makes no training samples")
    sampler = DrawSampler(dataset, spec['batch_size'], spec.get('epoch_batches'), seed, world.rank, world.size)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=spec.get('num_workers', 0),
                        pin_memory=device.type == 'cuda', worker_init_fn=_start_worker,
                        generator=torch.Generator())  # a separate one: it must not draw from the run's
    return loader, sampler


def build_validation_set(config: dict, data_root: Path) -> Evaluation | None:
    """The validation set; None without `val_dataset`."""
    if 'val_dataset' not in config:
        return None
    dataset = datasets.make(config['val_dataset'], data_root, 'val_dataset')
    if not hasattr(dataset, 'pairs'):
        name = config['val_dataset']['wrapper']['name']
        raise SpecError(f"val_dataset.wrapper.name: expected 'sr-evaluation', got '{name}'")
    return dataset


def compiled(network: nn.Module) -> nn.Module:
    """`torch.compile`, without its warning that it generates no code for the spectra of large kernels."""
    warnings.filterwarnings('ignore', '.*code generation for complex operators')
    return torch.compile(network)  # type: ignore[return-value]


def _start_worker(worker: int) -> None:
    """In a data loader's worker: Ctrl-C and a batch system's SIGTERM are for the main process, which still needs it."""
    silence_libraries()  # a worker that was not forked begins with Python's own settings
    if hasattr(os, 'setsid'):
        os.setsid()
