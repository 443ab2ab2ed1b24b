"""Draws the validation curves of several runs beside each other:

    python -m benchmarks.curves -runs save/liif save/msit save/msit_rim -output curves.png

One line a run, named after its folder: the mean PSNR over the scales of its validation set against the iterations since
the start of its first stage.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from pathlib import Path
from statistics import fmean

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.cli import Parser, run
from figures import look
from utils import UserError, check_output

TAG = 'val/psnr_x'


def main() -> None:
    parser = Parser(prog='python -m benchmarks.curves', description='Draws the validation curves of several runs.')
    parser.option('runs', nargs='+', required=True, metavar='DIR', help='folders of runs')
    parser.option('output', type=Path, required=True, metavar='FILE', help='image to write, .png, .svg or .pdf')
    options = parser.parse_args()
    check_output(options.output, look.SUFFIXES)
    draw({Path(folder).name: read_curve(Path(folder)) for folder in options.runs}, options.output)
    print(f'wrote {options.output}')


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """(iterations, mean PSNR over the scales) of every validation of a run."""
    if not (folder / 'tensorboard').is_dir():
        raise UserError(f'{folder}: not the folder of a run, it has no tensorboard/')
    events = EventAccumulator(str(folder / 'tensorboard'), size_guidance={'scalars': 0})
    events.Reload()
    tags = [tag for tag in events.Tags()['scalars'] if tag.startswith(TAG)]
    if not tags:
        raise UserError(f'{folder}: no validation in its tensorboard/')
    steps = [[(event.step, event.value) for event in events.Scalars(tag)] for tag in tags]
    return [(step, fmean(value for _, value in values)) for values in zip(*steps) for step in [values[0][0]]]


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure, (axes,) = look.new_plots(look.WIDTHS['page'], 4.5)
    for name, points in curves.items():
        axes.plot(*zip(*points), marker='o', markersize=3, label=f'{name} ({points[-1][1]:.2f} dB)')
    axes.set(xlabel='iterations', ylabel='mean PSNR on the validation set (dB)')
    axes.legend()
    look.save(figure, path)


if __name__ == '__main__':
    run(main)
