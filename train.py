"""Trains a model from a YAML config: python train.py -config configs/train/train_edsr_baseline_MsIT.yaml -name EDSR_MSIT

On several GPUs: torchrun --nproc-per-node N train.py …, with the same options.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import logging
from contextlib import nullcontext
from pathlib import Path

from common.cli import Parser, choose_device, run
from common.locks import locked
from engine.config import TRAIN_KEYS, load_config, named
from engine.distributed import World, join
from engine.training.folder import choose_resume
from engine.training.record import quiet_writer_thread
from engine.training.trainer import Trainer
from engine.yaml_files import to_yaml
from utils import as_file_name, file_status

BUSY = 'another process trains in this folder; wait until it has ended, or choose another -name'


def main() -> None:
    with quiet_writer_thread(), join() as world:
        train(world)


def train(world: World) -> None:
    """Reads the options and trains, together with the other processes of `world`."""
    parser = Parser(description='Trains a model; writes save/NAME/.')
    parser.option('config', required=True, metavar='FILE', help='configs/train/….yaml')
    parser.config_options()
    parser.name_option("run name; output goes to save/NAME (default: the config's name)")
    parser.option('resume', metavar='auto|FILE', help="'auto' continues save/NAME/epoch-last.pth where there is one")
    parser.option('pretrain', metavar='FILE', help='the stage-1 checkpoint that this stage starts from')
    parser.option('data', default='data', metavar='DIR', help='root of the relative paths in the config (default: data)')
    parser.device_options()
    parser.kernels_option()
    options = parser.parse_args()

    config = load_config(options.config, TRAIN_KEYS, options.set)
    if options.no_kernels:
        config['fused'] = False
    if options.print_config:
        if world.main:
            print(to_yaml(config), end='')
        return
    folder = Path('save') / (options.name or as_file_name(Path(options.config).stem))
    file_status(folder)
    device = choose_device(options, world.local_rank, config.get('tf32', False))
    world.connect(device)
    pretrain = Path(options.pretrain) if options.pretrain else None
    with locked(folder, BUSY) if world.main else nullcontext():
        resume = world.broadcast(choose_resume(folder, options.resume) if world.main else None)
        with named(options.config, options.set):
            trainer = Trainer(config=config, folder=folder, data_root=Path(options.data), device=device, resume=resume,
                              pretrain=pretrain, world=world)
        trainer.train()


if __name__ == '__main__':
    logging.getLogger('tensorboard').setLevel(logging.ERROR)
    run(main)
