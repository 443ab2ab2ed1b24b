"""Training: one optimiser, one schedule, checkpoints that resume exactly.

The run folder holds the resolved config.yaml, log.txt, tensorboard/, epoch-last.pth, epoch-best.pth and epoch-N.pth.
"""
import contextlib
import logging
import math
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean as mean

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import datasets
import models
from common.registry import SpecError
from datasets.sampling import DrawSampler
from engine.checkpoint import random_state, read_run, restore_random_state, save_checkpoint
from engine.config import changes, plain
from engine.distributed import ALONE, World, synchronise_batch_norm
from engine.evaluation.evaluate import evaluate
from engine.training.health import dead_share, watch_relus
from engine.training.pretrain import load_stage1
from engine.training.record import Pace, Record, triptych, versions
from engine.training.schedule import OPTIMIZERS, SCHEDULES, parameter_groups
from models.checkpoint import load_state
from utils import RunError, UserError, count_parameters, remove_partial, seed_everything, write_text

SCALAR_EVERY = 50  # batches between two points of the loss curve
SAVE_EVERY = 500  # batches of an epoch between two writings of epoch-last.pth, unless the config says otherwise
CHECK_EVERY = 10  # batches between two looks at the loss on a GPU, which has to be waited for
IMAGES = 3  # of the validation set that are shown
MOST_DEAD = 0.5  # share of an encoder's ReLU channels that may be dead without a warning
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class Trainer:
    """A training run in a folder.

    Args:
        config: checked against TRAIN_KEYS.
        folder: of the run; made when missing.
        data_root: of relative paths in the config.
        resume: a checkpoint of this run to continue from, or None to start.
        pretrain: a stage-1 checkpoint to start from; no part of a run that is resumed.
        world: the processes that train together, connected. The first one reads checkpoints and writes the folder.
    """

    def __init__(self, config: dict, folder: Path, data_root: Path, device: torch.device, resume: Path | None = None,
                 pretrain: Path | None = None, world: World = ALONE):
        self.config, self.folder, self.device, self.world = config, folder, device, world
        seed_everything(config.get('seed', 0))
        checkpoint = world.broadcast(read_run(resume) if resume and world.main else None)
        self.build_model(None if checkpoint else pretrain)
        self.build_data(data_root)

        self.epoch, self.batch = 0, 0  # epochs done, and batches done of the next one
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)  # of these batches
        self.lowered = torch.zeros((), dtype=torch.int64, device=device)  # those of them at a lowered scale
        self.best = -math.inf
        self.time_left = ''
        self.stop_requested = False
        if checkpoint:
            self.restore(checkpoint, str(resume))
        if world.main:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            write_text(folder / 'config.yaml', yaml.safe_dump(config, sort_keys=False))
        self.record = Record(folder, world.main, self.global_batch + bool(checkpoint))
        self.record.text('versions', versions(device))
        self.record.text('config', plain(config))
        if checkpoint:
            changed = changes(checkpoint['config'], config)
            self.record.log(f'resumed {resume} after epoch {self.epoch}, batch {self.batch}'
                            + (f'; changed since: {", ".join(changed)}' if changed else ''))
        self.record.log(f'{count_parameters(self.model):,} trainable parameters, {len(self.sampler.dataset):,} training '
                        f'images, {self.sampler.epoch_batches} batches of {self.sampler.batch_size} an epoch, on {device}'
                        + (f' and {world.size - 1} more' if world.size > 1 else ''))

    def build_model(self, pretrain: Path | None) -> None:
        """The model, what computes its gradients, and what updates it."""
        config, world = self.config, self.world
        model = models.make(config['model'], config.get('data_norm'))
        self.start, self.earlier_batches = None, 0  # what was taken over from the stage before
        if pretrain:
            self.start, self.earlier_batches = world.broadcast(
                load_stage1(model, config['model'], pretrain) if world.main else None)
        self.memory_format = torch.channels_last if config.get('channels_last') else torch.contiguous_format
        model = model.to(self.device, memory_format=self.memory_format)
        self.model = synchronise_batch_norm(model, self.device) if world.size > 1 else model
        factors = config.get('lr_factors', {})
        self.lr_factors = (1.0, *factors.values())  # of the optimiser's groups
        self.optimizer = OPTIMIZERS.make(config['optimizer'], 'optimizer', params=parameter_groups(self.model, factors))
        self.base_lr = self.optimizer.defaults['lr']
        self.rate = SCHEDULES.make(config.get('lr_schedule', {'name': 'constant'}), 'lr_schedule')
        self.dtype = DTYPES[config.get('precision', 'float32')]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.model.use_kernels(config.get('fused', True), self.dtype)
        self.network = world.wrap(self.model)  # what a step calls; checkpoints and validation know the model alone
        if config.get('compile'):
            self.network = compiled(self.network)

    def build_data(self, data_root: Path) -> None:
        """This process's share of the training samples, and the validation set."""
        spec = self.config['train_dataset']
        dataset = datasets.make(spec, data_root, 'train_dataset')
        if not hasattr(dataset, 'draw_scales'):
            raise SpecError(f"train_dataset.wrapper.name: '{spec['wrapper']['name']}' makes no training samples")
        self.sampler = DrawSampler(dataset, spec['batch_size'], spec.get('epoch_batches'), self.config.get('seed', 0),
                                   self.world.rank, self.world.size)
        self.loader = DataLoader(dataset, batch_sampler=self.sampler, num_workers=spec.get('num_workers', 0),
                                 pin_memory=self.device.type == 'cuda', worker_init_fn=leave_process_group,
                                 generator=torch.Generator())  # of its own: it must not draw from the run's
        self.val_dataset = None
        if 'val_dataset' in self.config:
            self.val_dataset = datasets.make(self.config['val_dataset'], data_root, 'val_dataset')
            if not hasattr(self.val_dataset, 'pairs'):
                raise SpecError("val_dataset.wrapper.name: expected 'sr-evaluation', "
                                f"got '{self.config['val_dataset']['wrapper']['name']}'")

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
                self.record.log(self.start)
                scores = self.validate()
                self.record.log(f'before the first batch{format_scores(scores)}')
                if scores:  # what this stage has to beat
                    self.best = mean(scores.values())
                    self.save('epoch-best.pth')
            while self.epoch < self.config['epoch_max']:
                self.train_epoch()
                self.finish_epoch()
        finally:
            self.record.close()
            for number, handler in previous:
                signal.signal(number, handler)

    def train_epoch(self) -> None:
        self.model.train()
        self.sampler.set_position(self.epoch, self.batch)
        pace = Pace()
        bar = tqdm(pace.timed(self.loader), f'epoch {self.epoch + 1}/{self.config["epoch_max"]}', initial=self.batch,
                   total=self.sampler.epoch_batches, disable=None if self.world.main else True, leave=False)
        for sample in bar:
            try:
                loss, rate = self.train_step(sample)
            except ValueError:  # a network may not survive what a loss that was not looked at has made of its weights
                self.check_loss(self.loss_sum, self.batch)
                raise
            self.batch += 1
            if self.global_batch % SCALAR_EVERY == 0:
                values = {'train/loss': float(loss), 'train/lr': rate, **pace.lap()}
                values |= {f'train/{name}': float(value) for name, value in self.model.training_values().items()}
                self.record.scalars(values, self.global_batch)
            self.time_left = pace.time_left(self.config['epoch_max'] * self.sampler.epoch_batches - self.run_batch)
            if self.looked_at(self.batch) and not bar.disable:
                bar.set_postfix(loss=f'{self.loss_sum / self.batch:.4f}', lr=f'{rate:.2e}', left=self.time_left)
            stop = self.world.any(self.stop_requested)
            due = self.batch % self.config.get('save_every', SAVE_EVERY) == 0 and self.batch < self.sampler.epoch_batches
            if stop or due:
                self.check_weights()
                self.save('epoch-last.pth')
            if stop:
                raise KeyboardInterrupt(f'saved {self.folder / "epoch-last.pth"}; continue with -resume auto')

    def train_step(self, sample: dict) -> tuple[Tensor, float]:
        """One update from one batch, of which `sample` is this process's share; returns the batch's loss and the rate."""
        rate = self.rate(self.epoch, self.run_batch, self.base_lr)
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors):
            group['lr'] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)  # the loss, and the samples at a lowered scale
        for part, context in self.micro_batches(sample):
            lr = part['inp'].contiguous(memory_format=self.memory_format)            # (b, 3, H, W)
            with context, torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                prediction = self.network(lr, part['coord'], part['cell'])           # (b, Q, 3)
            difference = self.model.normalise_rgb(prediction.float()), self.model.normalise_rgb(part['gt'])
            numbers = self.sampler.batch_samples(self.batch) * part['gt'].shape[1:].numel()
            loss = F.l1_loss(*difference, reduction='sum') / numbers
            self.scaler.scale(loss * self.world.size).backward()  # processes are averaged, but each has only its own terms
            sums += torch.stack([loss.detach(), part['lowered'].sum()])
        loss, lowered = self.world.total(sums)
        if self.looked_at(self.batch + 1):
            self.check_loss(self.loss_sum + loss, self.batch + 1)
        if self.config.get('clip_grad'):
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(trainable(self.model), self.config['clip_grad'])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss_sum += loss
        self.lowered += lowered > 0
        return loss, rate

    def micro_batches(self, sample: dict) -> Iterator[tuple[dict, contextlib.AbstractContextManager]]:
        """This process's share of a batch in `accumulate` parts, on the device, each with the context to compute it in.

        As many parts in every process, since they exchange sums in each; in the smallest batches some are empty.
        """
        largest = -(-self.sampler.batch_samples(self.batch) // self.world.size)
        count = min(self.config.get('accumulate', 1), largest)
        own = self.sampler.share(self.batch)
        parts = zip(*(value[:own].tensor_split(count) for value in sample.values()))
        for number, values in enumerate(parts, 1):
            # gradients travel once, after the last part
            waiting = self.network.no_sync() if self.world.size > 1 and number < count else contextlib.nullcontext()
            yield {key: value.to(self.device, non_blocking=True) for key, value in zip(sample, values)}, waiting

    def finish_epoch(self) -> None:
        """Logs, validates and saves after an epoch."""
        self.check_weights()
        batches = self.sampler.epoch_batches
        loss, lowered = float(self.loss_sum) / batches, int(self.lowered) / batches
        rate = self.optimizer.param_groups[0]['lr']
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.lowered.zero_()
        self.record.scalars({'train/lowered_scales': lowered}, self.global_batch)
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
        self.record.log(line + format_scores(scores) + left)

    def validate(self) -> dict[float, float]:
        """Mean PSNR at each scale of the validation set; nothing where there is none."""
        if self.val_dataset is None:
            return {}
        number = self.epoch // self.config.get('epoch_val', 1)  # images are shown after 1, 2, 4, 8, … and the last
        shown = [] if number & (number - 1) == 0 or self.epoch == self.config['epoch_max'] else None

        def show(pair, scale, prediction):
            if shown is not None and len(shown) < IMAGES and scale == max(self.val_dataset.scales):
                shown.append(pair.name)
                self.record.image(f'val/{pair.name}_x{scale:g}', triptych(pair, prediction), self.global_batch)
        self.model.eval()
        with watch_relus(getattr(self.model, 'encoder', self.model)) as live:
            rows = evaluate(self.model, self.val_dataset, self.device, 'validation', show, world=self.world)
        scores = {row['scale']: row['psnr'] for row in rows}
        self.record.scalars({f'val/psnr_x{scale:g}': score for scale, score in scores.items()}, self.global_batch)
        if live:  # on the first process, of its share of the images
            dead = dead_share(live)
            self.record.scalars({'val/dead_channels': dead}, self.global_batch)
            if dead > MOST_DEAD:
                self.record.log(f"warning: {dead:.0%} of the encoder's ReLU channels are zero on the validation set, and "
                                'learn nothing more; the learning rate may be too high')
        return scores

    def looked_at(self, batch: int) -> bool:
        """Whether the loss after this batch of the epoch is read from the device."""
        return self.device.type == 'cpu' or batch % CHECK_EVERY == 0

    def check_loss(self, loss_sum: Tensor, batch: int) -> None:
        """Raises RunError when a loss of the epoch's batches so far is not finite."""
        value = float(loss_sum)
        if not math.isfinite(value):
            raise RunError(f'the loss is {value} at epoch {self.epoch + 1}, batch {batch}: the run stopped, and its last '
                           'checkpoint is intact; lower the learning rate or set clip_grad, then -resume auto')

    def check_weights(self) -> None:
        """Raises RunError, before anything is overwritten, when the last update ruined the weights."""
        self.check_loss(self.loss_sum, self.batch)
        if not all(parameter.isfinite().all() for parameter in trainable(self.model)):
            raise RunError(f'the weights are no longer finite after epoch {self.epoch + 1}, batch {self.batch}, and were '
                           'not saved; lower the learning rate or set clip_grad, then -resume auto')

    def save(self, name: str) -> None:
        """Writes a checkpoint, which is the same whatever the number of processes; all return when it is written."""
        self.record.flush()
        if self.world.main:
            save_checkpoint(
                self.folder / name, self.model, self.config['model'], epoch=self.epoch, batch=self.batch, best=self.best,
                global_batch=self.global_batch, loss_sum=float(self.loss_sum), lowered=int(self.lowered),
                random_state=random_state(self.device), config=self.config, scaler=self.scaler.state_dict(),
                optimizer={**self.config['optimizer'], 'sd': self.optimizer.state_dict()})
        self.world.wait()

    def restore(self, checkpoint: dict, source: str) -> None:
        """Continues exactly where `save` was called."""
        load_state(self.model, checkpoint['model']['sd'], source)
        was, now = (config['optimizer'].get('name') for config in (checkpoint, self.config))
        if was != now:
            raise UserError(f"{source}: was trained with optimizer '{was}', but the config has '{now}'")
        was, now = (list(config.get('lr_factors', {})) for config in (checkpoint['config'], self.config))
        if was != now:
            raise UserError(f'{source}: was trained with lr_factors of {plain(was)}, but the config has {plain(now)}; '
                            'only their values may change when a run is resumed')
        try:
            self.optimizer.load_state_dict(checkpoint['optimizer']['sd'])
            self.epoch, self.batch = int(checkpoint['epoch']), int(checkpoint['batch'])
            self.best = float(checkpoint['best'])
            self.loss_sum.fill_(checkpoint['loss_sum'])
            self.lowered.fill_(checkpoint['lowered'])
            self.earlier_batches = checkpoint['global_batch'] - self.run_batch
            if self.scaler.is_enabled() and checkpoint.get('scaler'):  # empty where the run had another precision
                self.scaler.load_state_dict(checkpoint['scaler'])
            restore_random_state(checkpoint['random_state'], self.device)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(f'{source}: its run state is damaged or of another program ({error!r}); it cannot be resumed, '
                            'but -pretrain can start from its weights') from error

    def request_stop(self, number: int, frame) -> None:
        """Signal handler: the step at hand is finished and saved first; a second signal stops at once.

        Not so where there are several processes, to each of which torchrun passes on what it got: they stop together.
        """
        if self.stop_requested and self.world.size == 1:
            raise KeyboardInterrupt('at once; the last checkpoint is intact')
        self.stop_requested = True


def format_scores(scores: dict[float, float]) -> str:
    """PSNR by scale as the end of a log line."""
    return ', PSNR ' + ', '.join(f'×{scale:g} {score:.3f}' for scale, score in scores.items()) if scores else ''


def leave_process_group(worker: int) -> None:
    """In a data loader's worker: Ctrl-C and a batch system's SIGTERM are for the main process, which still needs it."""
    if hasattr(os, 'setsid'):
        os.setsid()


def compiled(network: torch.nn.Module) -> torch.nn.Module:
    """`torch.compile`, without its warnings of what is meant to stay outside: FEM's stride, a number in Python since pixels
    are shifted by slices, and the spectra of large kernels."""
    logging.getLogger('torch._dynamo.variables.tensor').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', '.*code generation for complex operators')
    return torch.compile(network)


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that the optimiser updates."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
