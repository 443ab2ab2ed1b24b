"""A run's checkpoints, written and read, and the state that makes resuming exact."""
import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.yaml_files import check_config
from models.checkpoint import read_checkpoint
from models.contract import SRModel
from models.layouts import SAFETENSORS, to_safetensors
from utils import RunError, UserError, atomic_path


def save_checkpoint(path: str | Path, model: SRModel, spec: dict, **run_state) -> None:
    """Writes a checkpoint of a model; see `write_checkpoint`.

    Args:
        spec: {'name', 'args'} that `models.make` builds the model from.
        run_state: what else the file carries (epoch, optimizer, …).
    """
    write_checkpoint(path, {'model': {**spec, 'sd': model.state_dict()}, 'data_norm': model.data_norm, **run_state})


def write_checkpoint(path: str | Path, content: dict) -> None:
    """Writes a checkpoint's content atomically: tensors and plain values only, so that it opens with weights_only=True.

    A path that ends in .safetensors gives such a file, of the model alone.

    Raises: RunError when the disk does not take it; the file that was there before is then intact.
    """
    with _written(path) as temporary:
        if Path(path).suffix == SAFETENSORS:
            to_safetensors(content, temporary)
        else:
            torch.save(content, temporary)


def copy_checkpoint(source: Path, path: Path) -> None:
    """Copies a checkpoint file atomically. Raises: RunError as `write_checkpoint`."""
    with _written(path) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _written(path: str | Path) -> Iterator[Path]:
    """Yields the temporary file to write; brings it to the disk, then gives it its name."""
    with atomic_path(path) as temporary:
        try:
            yield temporary
            with open(temporary, 'rb+') as file:
                os.fsync(file.fileno())  # on the disk before it takes the place of the last one
        except (RuntimeError, OSError) as error:  # the first is what torch raises when the disk takes no more
            raise RunError(f'{path}: could not be written, is the disk full? ({error}); the file that was there before is '
                           'intact') from error


def read_run(path: Path) -> dict:
    """The checkpoint of a run of this trainer. Raises UserError when it is another, or has no optimiser state."""
    checkpoint = read_checkpoint(path)
    missing = {'optimizer', 'epoch', 'batch', 'global_batch', 'random_state', 'config'} - set(checkpoint)
    missing |= {key for key in ('optimizer', 'config') if not isinstance(checkpoint.get(key), dict)}
    missing |= {'raw'} if not isinstance(checkpoint.get('raw', {}), dict) else set()
    if missing:
        raise UserError(f"{path}: holds weights, but not the state of a run ({', '.join(sorted(missing))}), so it cannot be "
                        'resumed; to start from it use -pretrain')
    check_config(checkpoint['config'], f'{path}: config')
    return checkpoint


def random_state(device: torch.device) -> dict:
    """The state of every global random generator, of GPUs that of `device` alone, as tensors and plain values."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return {
        'torch': torch.get_rng_state(),
        'cuda': [torch.cuda.get_rng_state(device)] if device.type == 'cuda' else [],
        'numpy': [name, keys.tolist(), *rest],
        'python': random.getstate(),
    }


def restore_random_state(state: dict, device: torch.device) -> None:
    """Sets every generator as `random_state` found it; a GPU's only where the run was on a GPU too."""
    torch.set_rng_state(state['torch'])
    if state['cuda'] and device.type == 'cuda':
        torch.cuda.set_rng_state(state['cuda'][0], device)
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state['python'])
