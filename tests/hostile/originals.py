"""Valid files, made once: what the attacks start from."""
import copy
import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import demo
import test
import train
import visualize
from common.cli import run
from datasets.prepare import __main__ as prepare
from engine.tools import average, export, grow
from tests.hostile.films import make_films
from tests.hostile.process import Process

COMMANDS = {'demo': partial(run, demo.main), 'test': partial(run, test.main), 'train': partial(run, train.main),
            'export': partial(run, export.main), 'average': partial(run, average.main), 'grow': partial(run, grow.main),
            'prepare': partial(run, prepare.main), 'visualize': partial(run, visualize.main)}
MODEL = {'name': 'msit', 'args': {
    'base_dim': 8, 'heads': 2, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2,
    'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'no_upsampling': True}},
    'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 8}},
    'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [16], 'act': 'gelu'}}}}
TEST = {'test_dataset': {
    'dataset': {'name': 'image-folder', 'args': {'root_path': 'images', 'first_k': 2}},
    'wrapper': {'name': 'sr-evaluation', 'args': {'name': 'V', 'protocol': 'div2k', 'scales': [2], 'crop': 24}}}}
TRAIN = {
    'train_dataset': {
        'dataset': {'name': 'image-folder', 'args': {'root_path': 'images', 'repeat': 1}},
        'wrapper': {'name': 'sr-implicit-downsampled',
                    'args': {'inp_size': 8, 'scale_min': 1, 'scale_max': 3, 'sample_q': 16}},
        'batch_size': 2, 'epoch_batches': 2, 'num_workers': 0},
    'val_dataset': {'dataset': {'name': 'image-folder', 'args': {'root_path': 'images', 'first_k': 1}},
                    'wrapper': copy.deepcopy(TEST['test_dataset']['wrapper'])},
    'data_norm': {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}},
    'model': MODEL, 'optimizer': {'name': 'adam', 'args': {'lr': 1e-3, 'betas': [0.9, 0.99]}},
    'lr_schedule': {'name': 'warmup-cosine', 'args': {'warmup': 2, 'cosine': 4, 'unit': 'batch'}},
    'clip_grad': 1, 'epoch_max': 1, 'epoch_val': 1, 'epoch_save': 1, 'seed': 0}
SETS = ('LR_bicubic/X2', 'LR_bicubic/X3', 'LR_bicubic/X4', 'HR')  # folders of Set5
SIDE = 24  # of its HR images here, in pixels


def image(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """(H, W, C) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def make_originals(folder: Path) -> None:
    """Writes into `folder`/case what the attacks start from: images, films, configs, a run, its weights, results."""
    case = folder / 'case'
    (case / 'data/images').mkdir(parents=True)
    for number in range(3):
        Image.fromarray(image(28, 30 + number, number)).save(case / f'data/images/{number}.png')
    frames = [Image.fromarray(image(24, 30, number)) for number in range(4)]
    frames[0].save(case / 'moving.webp', save_all=True, append_images=frames[1:], duration=50)
    make_films(case / 'films')
    write_archive(case / 'archives/benchmark.tar', set5())
    (case / 'train.yaml').write_text(as_yaml(TRAIN))
    (case / 'test.yaml').write_text(as_yaml(TEST))
    deeper = copy.deepcopy(TRAIN)
    deeper['model']['args']['encoder_spec']['args']['n_resblocks'] = 2
    (case / 'deeper.yaml').write_text(as_yaml(deeper))
    run_valid(folder, 'train', '-config', 'train.yaml', '-name', 'run', '-device', 'cpu', '-set',
              'train_dataset.dataset.args.cache=mapped')
    run_valid(folder, 'export', '-model', 'save/run/epoch-last.pth', '-output', 'weights.pth')
    run_valid(folder, 'test', '-config', 'test.yaml', '-model', 'weights.pth', '-name', 'kept', '-device', 'cpu')


def run_valid(folder: Path, command: str, *words: str) -> None:
    """Runs a command that must succeed in `folder`/case."""
    outcome = Process(COMMANDS[command], [command, *words], folder, workers=True).wait(limit=300)
    if outcome.status != 0 or outcome.err:
        raise RuntimeError(f'{command} {" ".join(words)}: ended with status {outcome.status}: {outcome.err[-500:]}')


def set5() -> dict[str, bytes]:
    """Name → content of the files of an archive with the images of Set5."""
    members = {}
    for place in SETS:
        for number in range(5):
            scale = 1 if place == 'HR' else int(place[-1])
            name = f'img_{number}{"" if place == "HR" else f"x{scale}"}.png'
            content = io.BytesIO()
            Image.fromarray(image(SIDE // scale, SIDE // scale, number)).save(content, 'png')
            members[f'benchmark/Set5/{place}/{name}'] = content.getvalue()
    return members


def write_archive(path: Path, members: dict[str, bytes], mode: str = 'w') -> None:
    """A tar archive; its members' times are those of no clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
