"""The state of a run: all that training changes, saved in a checkpoint and restored from it bit for bit."""
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoint import random_state, restore_random_state, save_checkpoint
from engine.training.ema import MovingAverage
from engine.training.ranges import RunStateError, check_numbers, checked_optimizer
from engine.training.schedule import OPTIMIZERS, parameter_groups
from engine.yaml_files import plain
from models.checkpoint import load_state
from models.contract import SRModel
from models.released import translate
from utils import RunError, UserError, shortened


class RunState:
    """Weights, their moving average, optimiser, gradient scaler, and the position in the run.

    Args:
        config: of the run.
        model: on its device.
        device: of the model.
        epoch_iterations: iterations of an epoch.
        earlier_iterations: iterations of the stages before this one.

    Attributes:
        average: of the weights; None without `ema_decay`.
        epoch, iteration: epochs done, and iterations done of the next one.
        loss_sum, lowered: over these iterations, on the device: the sum of the losses, float64, and how many of the batches
            were at a lowered scale, int64.
        best: the highest validation score so far, the mean PSNR over the scales.
        best_epoch: the epoch after which it was reached; None before the first validation.
        report: the log's line of the last epoch, which a run that is killed before it is written has in its checkpoint.
    """

    def __init__(self, *, config: dict, model: SRModel, device: torch.device, epoch_iterations: int,
                 earlier_iterations: int = 0):
        self.config, self.model, self.device = config, model, device
        self.epoch_iterations, self.earlier_iterations = epoch_iterations, earlier_iterations
        self.optimizer = OPTIMIZERS.make(
            config['optimizer'], 'optimizer', params=parameter_groups(model, config.get('lr_factors', {})))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.get('precision') == 'float16')
        self.average = MovingAverage(model, decay=config['ema_decay']) if 'ema_decay' in config else None
        self.epoch, self.iteration = 0, 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.lowered = torch.zeros((), dtype=torch.int64, device=device)
        self.best = -math.inf
        self.best_epoch: int | None = None
        self.report: str | None = None

    @property
    def measured(self) -> SRModel:
        """The network that is validated and that files hold under model.sd: the moving average where there is one."""
        return self.average.model if self.average else self.model

    @property
    def run_iteration(self) -> int:
        """Iterations done since the start of the run: what the schedule counts."""
        return self.epoch * self.epoch_iterations + self.iteration

    @property
    def global_iteration(self) -> int:
        """Iterations done since the start of the first stage: the step axis of TensorBoard, continued by later stages."""
        return self.earlier_iterations + self.run_iteration

    def advance(self, loss: Tensor, lowered: Tensor) -> None:
        """Counts an iteration: its loss, and whether its batch was at a lowered scale, scalars on the device."""
        self.loss_sum += loss
        self.lowered += lowered
        self.iteration += 1

    def finish_epoch(self) -> tuple[float, float]:
        """Counts an epoch; returns its mean loss and its share of batches at a lowered scale."""
        means = float(self.loss_sum) / self.epoch_iterations, int(self.lowered) / self.epoch_iterations
        self.loss_sum.zero_()
        self.lowered.zero_()
        self.epoch, self.iteration = self.epoch + 1, 0
        return means

    def check_loss(self) -> None:
        """Raises RunError when a loss of the epoch's iterations so far is not finite. Waits for the device."""
        value = float(self.loss_sum)
        if not math.isfinite(value):
            raise RunError(f'the loss is {value} at epoch {self.epoch + 1}, iteration {self.iteration}: the run stopped, '
                           'and its last checkpoint is intact; lower the learning rate or set clip_grad, then -resume auto')

    def check(self) -> None:
        """Raises RunError, before anything is overwritten, when the loss or the weights are not finite."""
        self.check_loss()
        if not torch.stack([parameter.isfinite().all() for parameter in trainable(self.model)]).all():
            raise RunError(f'the weights are no longer finite after epoch {self.epoch + 1}, iteration {self.iteration}, and '
                           'were not saved; lower the learning rate or set clip_grad, then -resume auto')

    def save(self, path: Path) -> None:
        """Writes a checkpoint. model.sd holds `measured`; with a moving average the weights to resume from are `raw`."""
        raw = {'raw': self.model.state_dict()} if self.average else {}
        save_checkpoint(
            path, self.measured, self.config['model'], **raw, epoch=self.epoch, batch=self.iteration, best=self.best,
            best_epoch=self.best_epoch, report=self.report, global_batch=self.global_iteration,
            loss_sum=float(self.loss_sum), lowered=int(self.lowered), random_state=random_state(self.device),
            config=self.config, scaler=self.scaler.state_dict(),
            optimizer={**self.config['optimizer'], 'sd': self.optimizer.state_dict()})

    def restore(self, checkpoint: dict, source: str) -> None:
        """Continues exactly where `save` was called. A moving average that is new to the run starts from its weights.

        Raises: UserError, which names the file `source`, when it is of another network or optimiser, or damaged.
        """
        _, measured = translate(checkpoint['model'])  # earlier versions named some tensors otherwise
        load_state(self.model, checkpoint.get('raw', measured), source)
        if self.average:
            load_state(self.average.model, measured, source)
        self._refuse_other_optimizer(checkpoint, source)
        try:
            check_numbers(checkpoint, self.epoch_iterations)
            self.epoch, self.iteration = checkpoint['epoch'], checkpoint['batch']
            self.optimizer.load_state_dict(checked_optimizer(
                checkpoint['optimizer'].get('sd'), self.optimizer,
                complete=self.run_iteration > 0 and not self.model.may_idle))
            self.best, self.best_epoch = float(checkpoint['best']), checkpoint.get('best_epoch')
            self.report = checkpoint.get('report')
            self.loss_sum.fill_(checkpoint['loss_sum'])
            self.lowered.fill_(checkpoint['lowered'])
            self.earlier_iterations = checkpoint['global_batch'] - self.run_iteration
            if self.scaler.is_enabled() and checkpoint.get('scaler'):  # empty where the run had another precision
                self.scaler.load_state_dict(checkpoint['scaler'])
            restore_random_state(checkpoint['random_state'], self.device)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            reason = str(error) if isinstance(error, RunStateError) else shortened(repr(error), quotes=False)
            raise UserError(f'{source}: its run state is damaged or of another program ({reason}); it cannot be resumed, '
                            'but -pretrain can start from its weights') from error

    def _refuse_other_optimizer(self, checkpoint: dict, source: str) -> None:
        """Raises UserError when the optimiser's state would belong to another optimiser or to other parameters."""
        was, now = (config['optimizer'].get('name') for config in (checkpoint, self.config))
        if was != now:
            raise UserError(f"{source}: was trained with optimizer '{was}', but the config has '{now}'")
        was, now = (list(config.get('lr_factors', {})) for config in (checkpoint['config'], self.config))
        if was != now:
            raise UserError(f'{source}: was trained with lr_factors of {plain(was)}, but the config has {plain(now)}; '
                            'only their values may change when a run is resumed')


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimiser updates."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
