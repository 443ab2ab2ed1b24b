"""The training loop: epochs, curves, validation, checkpoints, and an orderly stop.

The run folder holds the resolved config.yaml, log.txt, tensorboard/, epoch-last.pth, epoch-best.pth and epoch-N.pth.
"""
import math
import signal
from pathlib import Path

import torch
from tqdm import tqdm

from engine.checkpoint import read_run
from engine.config import changes
from engine.distributed import ALONE, World
from engine.training.build import build_loader, build_model, build_network, build_validation_set
from engine.training.figures import check_figures
from engine.training.folder import BEST, LAST, write_missing
from engine.training.ranges import MOST_DB
from engine.training.record import Pace, Record, versions
from engine.training.state import RunState
from engine.training.step import TrainingStep, Update
from engine.training.validation import Validation, format_scores, mean_score
from engine.yaml_files import plain, to_yaml
from utils import count_parameters, remove_partial, seed_everything, write_text

SCALAR_EVERY = 50  # iterations between two points of the loss curve
SAVE_EVERY = 500  # iterations of an epoch between two writings of epoch-last.pth, unless the config says otherwise


class Trainer:
    """A training run in a folder.

    Args:
        config: checked against TRAIN_KEYS.
        folder: of the run; made when missing.
        data_root: of relative paths in the config.
        resume: a checkpoint of this run to continue from, or None to start.
        pretrain: a stage-1 checkpoint to start from; has no effect on a run that is resumed.
        world: the processes that train together, connected. The first one reads checkpoints and writes the folder.
    """

    def __init__(self, *, config: dict, folder: Path, data_root: Path, device: torch.device, resume: Path | None = None,
                 pretrain: Path | None = None, world: World = ALONE):
        self.config, self.folder, self.world = config, folder, world
        seed_everything(config.get('seed', 0))
        checkpoint = world.broadcast(read_run(resume) if resume and world.main else None)
        model, self.start, earlier = build_model(config, device, world, None if checkpoint else pretrain)
        self.loader, self.sampler = build_loader(config, data_root, device, world)
        check_figures(config)
        val_dataset = build_validation_set(config, data_root)
        network = build_network(config, model, world)  # gives all processes the weights of the first
        self.state = RunState(config=config, model=model, device=device, epoch_iterations=self.sampler.epoch_batches,
                              earlier_iterations=earlier)
        if checkpoint:
            self.state.restore(checkpoint, str(resume))
        self.step = TrainingStep(config=config, state=self.state, network=network, sampler=self.sampler, world=world)
        if world.main:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            write_text(folder / 'config.yaml', to_yaml(config))
        missed = write_missing(folder, checkpoint) if checkpoint and world.main and resume == folder / LAST else []
        self.record = Record(folder, active=world.main, purge_step=self.state.global_iteration + bool(checkpoint))
        self.validation = Validation(dataset=val_dataset, device=device, record=self.record,
                                     world=world, figures=config.get('figures', False)) if val_dataset else None
        self.time_left = ''
        self.stop_requested = False
        if self.state.report and resume == folder / LAST:
            self.record.log_once(self.state.report)
        self._log_start(checkpoint, resume)
        if missed:
            self.record.log(f'wrote {" and ".join(missed)}, which were missing since the run was stopped')

    def _log_start(self, checkpoint: dict | None, resume: Path | None) -> None:
        """Versions, the config, and what the run starts from."""
        state, sampler, others = self.state, self.sampler, self.world.size - 1
        self.record.text('versions', versions(state.device))
        self.record.text('config', plain(self.config))
        if checkpoint:
            changed = changes(checkpoint['config'], self.config)
            self.record.log(f'resumed {resume} after epoch {state.epoch}, iteration {state.iteration}'
                            + (f'; changed since: {", ".join(changed)}' if changed else ''))
        self.record.log(f'{count_parameters(state.model):,} trainable parameters, {len(sampler.dataset):,} training images, '
                        f'{sampler.epoch_batches} iterations per epoch with batches of {sampler.batch_size}, '
                        f'on {state.device}' + (f' and {others} more' if others else ''))
        if state.average:
            self.record.log(f'validation measures the moving average of the weights, ema_decay {self.config["ema_decay"]}')

    def train(self) -> None:
        """Trains until epoch_max. Raises KeyboardInterrupt, after saving, when the run was asked to stop."""
        previous = [(number, signal.signal(number, self.request_stop)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            if self.start:
                self.record.log(self.start)
                scores = self.validate()
                self.record.log(f'before the first iteration{format_scores(scores)}')
                if self.is_best(scores):  # what this stage has to beat
                    self.save(BEST)
            while self.state.epoch < self.config['epoch_max']:
                self.train_epoch()
                self.finish_epoch()
        finally:
            self.record.close()
            for number, handler in previous:
                signal.signal(number, handler)

    def train_epoch(self) -> None:
        """The iterations that are left of the epoch."""
        state, epochs = self.state, self.config['epoch_max']
        state.model.train()
        self.sampler.set_position(state.epoch, state.iteration)
        pace = Pace()
        bar = tqdm(pace.timed(self.loader), f'epoch {state.epoch + 1}/{epochs}', initial=state.iteration,
                   total=state.epoch_iterations, disable=None if self.world.main else True, leave=False)
        for sample in bar:
            update = self.train_step(sample)
            if state.global_iteration % SCALAR_EVERY == 0:
                self.record.scalars(self.curves(update) | pace.lap(), state.global_iteration)
            self.time_left = pace.time_left(epochs * state.epoch_iterations - state.run_iteration)
            if self.step.checks_loss(state.iteration) and not bar.disable:
                bar.set_postfix(loss=f'{state.loss_sum / state.iteration:.4f}', lr=f'{update.learning_rate:.2e}',
                                left=self.time_left)
            self.save_when_due()

    def train_step(self, sample: dict) -> Update:
        """One iteration: an update from one batch, of which `sample` is this process's share."""
        return self.step(sample)

    def curves(self, update: Update) -> dict[str, float]:
        """The values of a point of the training curves."""
        learnt = self.state.model.training_values()
        return {'train/loss': float(update.loss), 'train/lr': update.learning_rate,
                **{f'train/{name}': float(value) for name, value in learnt.items()}}

    def save_when_due(self) -> None:
        """Writes epoch-last.pth within an epoch. Raises KeyboardInterrupt after it when the run was asked to stop."""
        iteration = self.state.iteration
        stop = self.world.any(self.stop_requested)
        due = iteration % self.config.get('save_every', SAVE_EVERY) == 0 and iteration < self.state.epoch_iterations
        if stop or due:
            self.state.check()
            self.save(LAST)
        if stop:
            raise KeyboardInterrupt(f'saved {self.folder / LAST}; continue with -resume auto')

    def finish_epoch(self) -> None:
        """Logs, validates and saves after an epoch."""
        state, epochs = self.state, self.config['epoch_max']
        state.check()
        loss, lowered = state.finish_epoch()
        self.record.scalars({'train/lowered_scales': lowered}, state.global_iteration)
        line = f'epoch {state.epoch}/{epochs}: loss {loss:.4f}, learning rate {state.optimizer.param_groups[0]["lr"]:.2e}'
        if lowered:
            line += f', {lowered:.0%} of batches at a lowered scale'
        due = state.epoch % self.config.get('epoch_val', 1) == 0 or state.epoch == epochs
        scores = self.validate() if due else {}
        best = self.is_best(scores)
        state.report = line + format_scores(scores)
        self.save(LAST)
        if best:
            self.save(BEST)
        if self.config.get('epoch_save') and state.epoch % self.config['epoch_save'] == 0:
            self.save(f'epoch-{state.epoch}.pth')
        self.record.log(state.report + (f', {self.time_left} left' if self.time_left else ''))

    def validate(self) -> dict[float, float]:
        """PSNR in dB at each scale of the validation set; nothing where there is none."""
        if self.validation is None:
            return {}
        state = self.state
        number = state.epoch // self.config.get('epoch_val', 1)  # images are shown after 1, 2, 4, 8, … and the last
        show_images = number & (number - 1) == 0 or state.epoch == self.config['epoch_max']
        return self.validation(state.measured, state.global_iteration, show_images)

    def is_best(self, scores: dict[float, float]) -> bool:
        """Whether a validation has the highest score so far, which is then the one to beat."""
        score = min(mean_score(scores), MOST_DB) if scores else -math.inf
        best = score > self.state.best
        if best:
            self.state.best, self.state.best_epoch = score, self.state.epoch
        return best

    def save(self, name: str) -> None:
        """Writes a checkpoint, which is the same whatever the number of processes; all return when it is written."""
        self.record.flush()
        if self.world.main:
            self.state.save(self.folder / name)
        self.world.wait()

    def request_stop(self, number: int, frame) -> None:
        """Signal handler: the step at hand is finished and saved first; a second signal stops at once.

        Not so where there are several processes, to each of which torchrun passes on what it got: they stop together.
        """
        if self.stop_requested and self.world.size == 1:
            raise KeyboardInterrupt('at once; the last checkpoint is intact')
        self.stop_requested = True
