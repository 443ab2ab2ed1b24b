"""A model on an evaluation set: one result row per scale, in the form of results.json."""
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from datasets.evaluation import Evaluation
from datasets.sampling import to_tensor
from engine.metrics import evaluated_region, psnr, ssim
from models.sr_model import SRModel
from utils import atomic_path


def evaluate(model: SRModel, dataset: Evaluation, device: torch.device, label: str = '',
             save: Callable[[Image.Image, float, str], None] | None = None, memory: int | None = None) -> list[dict]:
    """PSNR and SSIM of `model` at every scale of `dataset`.

    Args:
        label: the model's name in the rows and on the progress bar.
        save: called with every upscaled picture, its scale and its file name.
        memory: see `SRModel.upscale`.
    Returns: rows as results.json holds them, one for each scale: model, dataset, scale, protocol, lr, images, psnr, ssim,
        seconds_per_image, per_image.
    """
    rows = []
    with tqdm(total=len(dataset) * len(dataset.scales), desc=f'{label} {dataset.name}', disable=None, leave=False) as bar:
        for scale in dataset.scales:
            bar.set_postfix_str(f'×{scale:g}')
            rows.append(evaluate_scale(model, dataset, scale, device, label, save, memory, bar.update))
    return rows


def evaluate_scale(model: SRModel, dataset: Evaluation, scale: float, device: torch.device, label: str = '',
                   save: Callable[[Image.Image, float, str], None] | None = None, memory: int | None = None,
                   done: Callable[[], object] = lambda: None) -> dict:
    """The row of one scale, with arguments as in `evaluate`; `done` is called after every picture."""
    per_image, seconds = [], []
    for name, lr, hr in dataset.pairs(scale):
        target = to_tensor(hr).to(device)                                            # (3, H, W)
        start = time.perf_counter()
        prediction = model.upscale(to_tensor(lr).unsqueeze(0).to(device), target.shape[1:], memory)[0]
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        compared = [evaluated_region(image, dataset.protocol, scale) for image in (prediction, target)]
        per_image.append({'name': name, 'psnr': psnr(*compared), 'ssim': ssim(*compared)})
        if save:
            save(to_image(prediction), scale, name)
        done()
    return {
        'model': label, 'dataset': dataset.name, 'scale': scale, 'protocol': dataset.protocol,
        'lr': dataset.source(scale), 'images': len(per_image),
        'psnr': statistics.fmean(image['psnr'] for image in per_image),
        'ssim': statistics.fmean(image['ssim'] for image in per_image),
        'seconds_per_image': statistics.fmean(seconds), 'per_image': per_image,
    }


def to_image(rgb: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit picture."""
    return Image.fromarray(rgb.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def save_image(image: Image.Image, path: str | Path) -> None:
    """Writes a picture atomically, in the format of the path's suffix."""
    with atomic_path(path) as temporary:
        image.save(temporary)


def plain_numbers(value: object) -> object:
    """The same JSON value with null for what JSON has no number for (an infinite PSNR, an undefined SSIM)."""
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_table(rows: list[dict]) -> str:
    """Result rows as a Markdown table, one line for each set and scale."""
    lines = ['| model | set | scale | PSNR (dB) | SSIM | protocol | LR | images | s/image |',
             '|---|---|---:|---:|---:|---|---|---:|---:|']
    lines += [f"| {row['model']} | {row['dataset']} | {row['scale']:g} | {row['psnr']:.2f} | {row['ssim']:.4f} "
              f"| {row['protocol']} | {row['lr']} | {row['images']} | {row['seconds_per_image']:.2f} |" for row in rows]
    return '\n'.join(lines)
