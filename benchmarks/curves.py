"""Draws the validation curves of several runs beside each other:

    python -m benchmarks.curves -runs save/liif save/msit save/msit_rim -output curves.png

One line a run, named after its folder: the mean PSNR over the scales of its validation set against the iterations since
the start of its first stage. The values lie beside the image, curves.json: given as a run, they are drawn again without the
folders.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import json
from pathlib import Path
from statistics import fmean

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.cli import Parser, run
from figures import look
from utils import UserError, check_output, write_text

TAG = 'val/psnr_x'
Curve = list[tuple[int, float]]  # (iterations, mean PSNR over the scales) of every validation of a run


def main() -> None:
    parser = Parser(prog='python -m benchmarks.curves', description='Draws the validation curves of several runs.')
    parser.option('runs', nargs='+', required=True, type=Path, metavar='PATH',
                  help='folders of runs, and JSON files that this command wrote')
    parser.option('output', type=Path, required=True, metavar='FILE',
                  help='image to write, .png, .svg or .pdf; its values lie beside it, .json')
    options = parser.parse_args()
    values = options.output.with_suffix('.json')
    check_output(options.output, look.SUFFIXES)
    check_output(values, ('.json',))
    curves: dict[str, Curve] = {}
    for path in options.runs:
        found = read_values(path) if path.suffix.lower() == '.json' else {path.resolve().name: read_curve(path)}
        if repeated := curves.keys() & found:
            raise UserError(f'{path}: {min(repeated)} is the name of several runs; each needs its own')
        curves |= found
    draw(curves, options.output)
    write_text(values, json.dumps(curves) + '\n')
    print(f'wrote {options.output} and {values}')


def read_curve(folder: Path) -> Curve:
    """The curve of a run, from the logs in its folder."""
    if not (folder / 'tensorboard').is_dir():
        raise UserError(f'{folder}: not the folder of a run, it has no tensorboard/')
    events = EventAccumulator(str(folder / 'tensorboard'), size_guidance={'scalars': 0})
    events.Reload()
    tags = [tag for tag in events.Tags()['scalars'] if tag.startswith(TAG)]
    if not tags:
        raise UserError(f'{folder}: no validation in its tensorboard/')
    steps = [[(event.step, event.value) for event in events.Scalars(tag)] for tag in tags]
    return [(step, fmean(value for _, value in values)) for values in zip(*steps) for step in [values[0][0]]]


def read_values(file: Path) -> dict[str, Curve]:
    """The curves in a file that this command wrote, by the names of their runs."""
    try:
        curves = {name: [(int(step), float(value)) for step, value in points]
                  for name, points in json.loads(file.read_text(encoding='utf-8')).items()}
    except OSError as error:
        raise UserError(f'{file}: cannot be read ({error.strerror})') from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f'{file}: expected the values of curves, as benchmarks.curves writes them') from error
    if not curves or not all(curves.values()):
        raise UserError(f'{file}: holds a run without values, or none; draw it anew from the folders of its runs')
    return curves


def draw(curves: dict[str, Curve], path: Path) -> None:
    figure, (axes,) = look.new_plots(look.WIDTHS['page'], 4.5)
    for name, points in curves.items():
        axes.plot(*zip(*points), marker='o', markersize=3, label=f'{name} ({points[-1][1]:.2f} dB)')
    axes.set(xlabel='iterations', ylabel='mean PSNR on the validation set (dB)')
    axes.legend()
    look.save(figure, path)


if __name__ == '__main__':
    run(main)
