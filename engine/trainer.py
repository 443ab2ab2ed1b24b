"""Training: one optimiser, one schedule, checkpoints that resume exactly.

The run folder holds the resolved config.yaml, log.txt, tensorboard/, epoch-last.pth, epoch-best.pth and epoch-N.pth.
"""
import math
import os
import signal
import time
from pathlib import Path
from statistics import fmean as mean

import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import datasets
import models
from datasets.sampling import DrawSampler
from engine.checkpoint import random_state, restore_random_state, save_checkpoint
from engine.evaluate import evaluate
from engine.pretrain import load_stage1
from engine.schedule import OPTIMIZERS, SCHEDULES
from models.checkpoint import load_state, read_checkpoint
from models.registry import SpecError
from utils import RunError, UserError, count_parameters, format_time, seed_everything, write_text

SCALAR_EVERY = 50  # batches between two points of the loss curve


class Trainer:
    """A training run in a folder.

    Args:
        config: checked against TRAIN_KEYS.
        folder: of the run; made when missing.
        data_root: of relative paths in the config.
        resume: a checkpoint of this run to continue from, or None to start.
        pretrain: a stage-1 checkpoint to start from; no part of a run that is resumed.
    """

    def __init__(self, config: dict, folder: Path, data_root: Path, device: torch.device, resume: Path | None = None,
                 pretrain: Path | None = None):
        self.config, self.folder, self.device = config, folder, device
        seed_everything(config.get('seed', 0))
        checkpoint = read_run(resume) if resume else None

        model = models.make(config['model'], config.get('data_norm'))
        self.earlier_batches = 0  # of the stage that this one started from
        self.start = None
        if pretrain and not checkpoint:
            self.start, self.earlier_batches = load_stage1(model, config['model'], pretrain)
        self.memory_format = torch.channels_last if config.get('channels_last') else torch.contiguous_format
        self.model = model.to(device, memory_format=self.memory_format)
        self.optimizer = OPTIMIZERS.make(config['optimizer'], 'optimizer', params=trainable(self.model))
        self.base_lr = self.optimizer.defaults['lr']
        self.rate = SCHEDULES.make(config.get('lr_schedule', {'name': 'constant'}), 'lr_schedule')

        spec = config['train_dataset']
        dataset = datasets.make(spec, data_root, 'train_dataset')
        if not hasattr(dataset, 'draw_scales'):
            raise SpecError(f"train_dataset.wrapper.name: '{spec['wrapper']['name']}' makes no training samples")
        self.sampler = DrawSampler(dataset, spec['batch_size'], spec.get('epoch_batches'), config.get('seed', 0))
        self.loader = DataLoader(dataset, batch_sampler=self.sampler, num_workers=spec.get('num_workers', 0),
                                 pin_memory=device.type == 'cuda', worker_init_fn=leave_process_group,
                                 generator=torch.Generator())  # of its own: it must not draw from the run's
        self.val_dataset = None
        if 'val_dataset' in config:
            self.val_dataset = datasets.make(config['val_dataset'], data_root, 'val_dataset')
            if not hasattr(self.val_dataset, 'pairs'):
                raise SpecError("val_dataset.wrapper.name: expected 'sr-evaluation', "
                                f"got '{config['val_dataset']['wrapper']['name']}'")

        self.epoch, self.batch = 0, 0  # epochs done, and batches done of the next one
        self.loss_sum, self.lowered = 0.0, 0
        self.best = -math.inf
        self.time_left = ''
        self.stop_requested = False
        if checkpoint:
            self.restore(checkpoint, str(resume))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / 'config.yaml', yaml.safe_dump(config, sort_keys=False))
        self.writer = SummaryWriter(folder / 'tensorboard', purge_step=self.global_batch + 1 if checkpoint else None)
        self.log(f'{count_parameters(self.model):,} trainable parameters, {len(dataset):,} training pictures, '
                 f'{self.sampler.epoch_batches} batches of {spec["batch_size"]} an epoch, on {device}')

    @property
    def run_batch(self) -> int:
        """Batches done since the start of the run: what the schedule counts."""
        return self.epoch * self.sampler.epoch_batches + self.batch

    @property
    def global_batch(self) -> int:
        """Batches done since the start of the first stage: the step axis of TensorBoard, shared by both stages."""
        return self.earlier_batches + self.run_batch

    def train(self) -> None:
        """Trains until epoch_max. Raises KeyboardInterrupt, after saving, when the run was asked to stop."""
        previous = [(number, signal.signal(number, self.request_stop)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            if self.start:
                self.log(self.start)
                scores = self.validate()
                self.log(f'before the first batch{format_scores(scores)}')
                if scores:  # what this stage has to beat
                    self.best = mean(scores.values())
                    self.save('epoch-best.pth')
            while self.epoch < self.config['epoch_max']:
                self.train_epoch()
                self.finish_epoch()
        finally:
            self.writer.close()
            for number, handler in previous:
                signal.signal(number, handler)

    def train_epoch(self) -> None:
        self.model.train()
        self.sampler.set_position(self.epoch, self.batch)
        bar = tqdm(self.loader, f'epoch {self.epoch + 1}/{self.config["epoch_max"]}', initial=self.batch,
                   total=self.sampler.epoch_batches, disable=None, leave=False)
        started, first = time.monotonic(), self.run_batch
        for sample in bar:
            loss, rate = self.train_step(sample)
            self.batch += 1
            if self.global_batch % SCALAR_EVERY == 0:
                self.writer.add_scalar('train/loss', loss, self.global_batch)
                self.writer.add_scalar('train/lr', rate, self.global_batch)
            remaining = self.config['epoch_max'] * self.sampler.epoch_batches - self.run_batch
            self.time_left = format_time((time.monotonic() - started) / (self.run_batch - first) * remaining)
            bar.set_postfix(loss=f'{self.loss_sum / self.batch:.4f}', lr=f'{rate:.2e}', left=self.time_left)
            if self.stop_requested:
                self.check_weights()
                self.save('epoch-last.pth')
                raise KeyboardInterrupt(f'saved {self.folder / "epoch-last.pth"}; continue with -resume auto')

    def train_step(self, sample: dict) -> tuple[float, float]:
        """One update from one batch; returns its loss and learning rate."""
        sample = {key: value.to(self.device, non_blocking=True) for key, value in sample.items()}
        rate = self.rate(self.epoch, self.run_batch, self.base_lr)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        lr = sample['inp'].contiguous(memory_format=self.memory_format)              # (B, 3, H, W)
        prediction = self.model(lr, sample['coord'], sample['cell'])                 # (B, Q, 3)
        loss = F.l1_loss(self.model.normalise_rgb(prediction), self.model.normalise_rgb(sample['gt']))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = loss.item()
        if not math.isfinite(value):
            raise RunError(f'the loss is {value} at epoch {self.epoch + 1}, batch {self.batch + 1}: the run stopped before '
                           'that update; lower the learning rate or set clip_grad, then -resume auto')
        if self.config.get('clip_grad'):
            torch.nn.utils.clip_grad_norm_(trainable(self.model), self.config['clip_grad'])
        self.optimizer.step()
        self.loss_sum += value
        self.lowered += int(sample['lowered'].any())
        return value, rate

    def finish_epoch(self) -> None:
        """Logs, validates and saves after an epoch."""
        self.check_weights()
        batches = self.sampler.epoch_batches
        loss, lowered = self.loss_sum / batches, self.lowered / batches
        rate = self.optimizer.param_groups[0]['lr']
        self.epoch, self.batch, self.loss_sum, self.lowered = self.epoch + 1, 0, 0.0, 0
        self.writer.add_scalar('train/lowered_scales', lowered, self.global_batch)
        line = f'epoch {self.epoch}/{self.config["epoch_max"]}: loss {loss:.4f}, lr {rate:.2e}'
        if lowered:
            line += f', {lowered:.0%} of batches at a lowered scale'
        scores = {}
        if self.epoch % self.config.get('epoch_val', 1) == 0 or self.epoch == self.config['epoch_max']:
            scores = self.validate()
        improved = bool(scores) and mean(scores.values()) > self.best
        if improved:
            self.best = mean(scores.values())
        self.save('epoch-last.pth')
        if improved:
            self.save('epoch-best.pth')
        if self.config.get('epoch_save') and self.epoch % self.config['epoch_save'] == 0:
            self.save(f'epoch-{self.epoch}.pth')
        left = f', {self.time_left} left' if self.time_left else ''
        self.log(line + format_scores(scores) + left)

    def validate(self) -> dict[float, float]:
        """Mean PSNR at each scale of the validation set; nothing where there is none."""
        if self.val_dataset is None:
            return {}
        self.model.eval()
        rows = evaluate(self.model, self.val_dataset, self.device, 'validation')
        for row in rows:
            self.writer.add_scalar(f'val/psnr_x{row["scale"]:g}', row['psnr'], self.global_batch)
        return {row['scale']: row['psnr'] for row in rows}

    def check_weights(self) -> None:
        """Raises RunError, before anything is overwritten, when the last update ruined the weights."""
        if not all(parameter.isfinite().all() for parameter in trainable(self.model)):
            raise RunError(f'the weights are no longer finite after epoch {self.epoch + 1}, batch {self.batch}, and were '
                           'not saved; lower the learning rate or set clip_grad, then -resume auto')

    def save(self, name: str) -> None:
        self.writer.flush()
        save_checkpoint(
            self.folder / name, self.model, self.config['model'], epoch=self.epoch, batch=self.batch, best=self.best,
            global_batch=self.global_batch, loss_sum=self.loss_sum, lowered=self.lowered, random_state=random_state(),
            config=self.config, optimizer={**self.config['optimizer'], 'sd': self.optimizer.state_dict()})

    def restore(self, checkpoint: dict, source: str) -> None:
        """Continues exactly where `save` was called."""
        load_state(self.model, checkpoint['model']['sd'], source)
        was, now = (config['optimizer'].get('name') for config in (checkpoint, self.config))
        if was != now:
            raise UserError(f"{source}: was trained with optimizer '{was}', but the config has '{now}'")
        try:
            self.optimizer.load_state_dict(checkpoint['optimizer']['sd'])
            self.epoch, self.batch = int(checkpoint['epoch']), int(checkpoint['batch'])
            self.best = float(checkpoint['best'])
            self.loss_sum, self.lowered = checkpoint['loss_sum'], checkpoint['lowered']
            self.earlier_batches = checkpoint['global_batch'] - self.run_batch
            restore_random_state(checkpoint['random_state'])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(f'{source}: its run state is damaged or of another program ({error!r}); it cannot be resumed, '
                            'but -pretrain can start from its weights') from error
        changed = sorted(key for key in {*self.config, *checkpoint['config']}
                         if self.config.get(key) != checkpoint['config'].get(key))
        self.log(f'resumed {source} after epoch {self.epoch}, batch {self.batch}'
                 + (f'; changed since: {", ".join(changed)}' if changed else ''))

    def log(self, line: str) -> None:
        """One line to the screen and to log.txt."""
        tqdm.write(line)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / 'log.txt', 'a', encoding='utf-8') as file:
            file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {line}\n')

    def request_stop(self, number: int, frame) -> None:
        """Signal handler: the step at hand is finished and saved first; a second signal stops at once."""
        if self.stop_requested:
            raise KeyboardInterrupt('at once; the last checkpoint is intact')
        self.stop_requested = True


def format_scores(scores: dict[float, float]) -> str:
    """PSNR by scale as the end of a log line."""
    return ', PSNR ' + ', '.join(f'×{scale:g} {score:.3f}' for scale, score in scores.items()) if scores else ''


def leave_process_group(worker: int) -> None:
    """In a data loader's worker: Ctrl-C and a batch system's SIGTERM are for the main process, which still needs it."""
    if hasattr(os, 'setsid'):
        os.setsid()


def read_run(path: Path) -> dict:
    """The checkpoint of a run of this trainer. Raises UserError when it is another, or has no optimiser state."""
    checkpoint = read_checkpoint(path)
    missing = {'optimizer', 'epoch', 'batch', 'global_batch', 'random_state', 'config'} - set(checkpoint)
    missing |= {key for key in ('optimizer', 'config') if not isinstance(checkpoint.get(key), dict)}
    if missing:
        raise UserError(f"{path}: holds weights, but not the state of a run ({', '.join(sorted(missing))}), so it cannot be "
                        'resumed; to start from it use -pretrain')
    return checkpoint


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that the optimiser updates."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
