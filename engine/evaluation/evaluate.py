"""A model on an evaluation set: one result row per scale, in the form of results.json."""
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from common.arrays import to_tensor
from common.coords import has_float64
from common.scales import AnyScale, scale_text
from datasets.evaluation import Evaluation, Pair
from engine.distributed import ALONE, World
from engine.evaluation.metrics import METRICS, Metric, make
from models.contract import SRModel


def evaluate(model: SRModel, dataset: Evaluation, device: torch.device, label: str = '',
             show: Callable[[Pair, AnyScale, torch.Tensor], None] | None = None, memory: int | None = None,
             world: World = ALONE, metrics: Sequence[Metric] | None = None) -> list[dict]:
    """The metrics of `model` at every scale of `dataset`.

    Args:
        label: the model's name in the rows and on the progress bar.
        show: called with every pair, its scale and the prediction, (3, H, W) in [0, 1].
        memory: see `SRModel.upscale`.
        world: processes that share the images, and end with the same rows; `show` sees those of its own process.
        metrics: None for PSNR and SSIM.
    Returns: rows as results.json holds them, one for each scale: model, dataset, scale, protocol, lr, images, a mean under
        the name of each metric, seconds_per_image, per_image.
    """
    rows = []
    count = len(range(world.rank, len(dataset), world.size)) * len(dataset.scales)
    with tqdm(total=count, desc=f'{label} {dataset.name}', disable=None if world.main else True, leave=False) as bar:
        for scale in dataset.scales:
            bar.set_postfix_str(f'×{scale_text(scale)}')
            rows.append(evaluate_scale(model, dataset, scale, device, label, show, memory, world, bar.update, metrics))
    return rows


def evaluate_scale(model: SRModel, dataset: Evaluation, scale: AnyScale, device: torch.device, label: str = '',
                   show: Callable[[Pair, AnyScale, torch.Tensor], None] | None = None, memory: int | None = None,
                   world: World = ALONE, done: Callable[[], object] = lambda: None,
                   metrics: Sequence[Metric] | None = None) -> dict:
    """The row of one scale, with arguments as in `evaluate`; `done` is called after every image."""
    def predict(pair: Pair, size: tuple[int, int]) -> torch.Tensor:
        return model.upscale(to_tensor(pair.lr).unsqueeze(0).to(device), size, memory)[0]
    return measure(predict, dataset, scale, device, label, show, world, done, make() if metrics is None else metrics)


def measure(predict: Callable[[Pair, tuple[int, int]], torch.Tensor], dataset: Evaluation, scale: AnyScale,
            device: torch.device, label: str, show: Callable[[Pair, AnyScale, torch.Tensor], None] | None, world: World,
            done: Callable[[], object], metrics: Sequence[Metric]) -> dict:
    """The row of one scale.

    Args:
        predict: a pair and (height, width) of its HR image → the image to measure, (3, H, W) in [0, 1] on the device.
        others: as in `evaluate_scale`.
    """
    per_image: list[dict[str, Any]] = []
    seconds: list[float] = []
    for pair in dataset.pairs(scale, slice(world.rank, None, world.size)):
        target = to_tensor(pair.hr).to(device if has_float64(device) else 'cpu')     # (3, H, W)
        start = time.perf_counter()
        prediction = predict(pair, (target.shape[1], target.shape[2])).to(target.device)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        scores = {metric.name: metric.measure(prediction, target, dataset.protocol, scale) for metric in metrics}
        per_image.append({'name': pair.name, **scores})
        if show:
            show(pair, scale, prediction)
        done()
    per_image, seconds = world.interleave(per_image), world.interleave(seconds)
    return {
        'model': label, 'dataset': dataset.name, 'scale': scale, 'protocol': dataset.protocol.name,
        'lr': dataset.lr_text(scale), 'images': len(per_image),
        **{metric.name: statistics.fmean(image[metric.name] for image in per_image) for metric in metrics},
        'seconds_per_image': statistics.fmean(seconds), 'per_image': per_image,
    }


def plain_numbers(value: object) -> object:
    """The same JSON value with null for what JSON has no number for (an infinite PSNR, an undefined SSIM)."""
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_table(rows: list[dict], metrics: Iterable[str] | None = None) -> str:
    """Result rows as a Markdown table, one line for each set and scale.

    Args:
        metrics: names of those that have a column; None for all that the rows have.
    """
    found = dict.fromkeys(key for row in rows for key in row if key in METRICS.entries) if metrics is None else metrics
    columns = [METRICS.entries[name] for name in found]
    head = ['model', 'set', 'scale', *(metric.heading for metric in columns), 'protocol', 'LR', 'images', 's/image']
    rule = ['---', '---', '---:', *['---:'] * len(columns), '---', '---', '---:', '---:']
    lines = [[row['model'], row['dataset'], scale_text(row['scale']),
              *(metric.text(row[metric.name]) if metric.name in row else '—' for metric in columns),
              row['protocol'], row['lr'], str(row['images']), f"{row['seconds_per_image']:.2f}"] for row in rows]
    return '\n'.join([f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in lines)])
