"""Validation while a network trains: PSNR at each scale, some images, and the health of the encoder."""
from statistics import fmean

import torch

from datasets.evaluation import Evaluation
from engine.distributed import World
from engine.evaluation.evaluate import evaluate
from engine.training.figures import Crops
from engine.training.health import dead_share, watch_relus
from engine.training.record import Record, triptych
from models.contract import SRModel

IMAGES = 3  # of the validation set that are shown
MOST_DEAD = 0.5  # share of an encoder's ReLU channels that may be dead without a warning


class Validation:
    """Scores networks on a validation set and records what it finds.

    Args:
        dataset: the validation set.
        device: of the networks.
        record: of the run.
        world: processes that share the images.
        figures: also show a crop of every image beside HR, and the curves of all scales in one chart.
    """

    def __init__(self, *, dataset: Evaluation, device: torch.device, record: Record, world: World, figures: bool = False):
        self.dataset, self.device, self.record, self.world, self.figures = dataset, device, record, world, figures
        if figures:
            record.chart('PSNR by scale', [f'val/psnr_x{scale:g}' for scale in dataset.scales])

    def __call__(self, model: SRModel, step: int, show_images: bool) -> dict[float, float]:
        """PSNR in dB at each scale. Leaves the model in evaluation mode.

        Args:
            step: of the curves and images in TensorBoard.
            show_images: whether to show some images, at the largest scale.
        """
        shown: set[str] = set()
        crops = Crops()

        def show(pair, scale, prediction):
            if not show_images or scale != max(self.dataset.scales):
                return
            if self.figures:
                crops.add(pair, prediction)
            if len(shown) < IMAGES:
                shown.add(pair.name)
                self.record.image(f'val/{pair.name}_x{scale:g}', triptych(pair, prediction), step)
        model.eval()
        with watch_relus(getattr(model, 'encoder', model)) as live:
            rows = evaluate(model, self.dataset, self.device, 'validation', show, world=self.world)
        scores = {row['scale']: row['psnr'] for row in rows}
        self.record.scalars({f'val/psnr_x{scale:g}': score for scale, score in scores.items()}, step)
        if crops.pairs:
            self.record.image(f'val/zoom_x{max(self.dataset.scales):g}', crops.grid(), step)
        if live:  # on the first process, of its share of the images
            self.report_dead(dead_share(live), step)
        return scores

    def report_dead(self, dead: float, step: int) -> None:
        """A point of the curve of dead channels, and a warning where they are many."""
        self.record.scalars({'val/dead_channels': dead}, step)
        if dead > MOST_DEAD:
            self.record.log(f"warning: {dead:.0%} of the encoder's ReLU channels are zero on the validation set and learn "
                            'nothing more; the learning rate may be too high')


def mean_score(scores: dict[float, float]) -> float:
    """The mean PSNR over the scales, which decides what is best."""
    return fmean(scores.values())


def format_scores(scores: dict[float, float]) -> str:
    """PSNR by scale as the end of a log line."""
    return ', PSNR ' + ', '.join(f'×{scale:g} {score:.3f}' for scale, score in scores.items()) if scores else ''
