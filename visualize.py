"""Draws figures: python visualize.py zoom -model bicubic MSIT-S -input HR.png -box 20,60,48,48 -output zoom.png

The kinds are in figures/, and docs/figures.md shows each.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
from pathlib import Path

from common.cli import Parser, choose_device, run
from common.ranges import real_number, whole_numbers
from engine.yaml_files import to_yaml
from figures import FIGURES, Studio, look
from figures.config import figure_config, make_evaluation, make_figure
from utils import check_output, shortened

ARGUMENTS = ('model', 'names', 'input', 'scale', 'scales', 'box', 'at', 'width')  # of figures, that are options
LARGEST_SCALE = 10_000


def main() -> None:
    options = read_options()
    config = figure_config(options.config, options.kind, given_arguments(options), options.set)
    if options.print_config:
        print(to_yaml(config), end='')
        return
    name = config['figure']['name']
    output = Path(options.output or f'output/{Path(options.config).stem if options.config else name}.png')
    check_output(output, look.SUFFIXES)
    with look.style():
        figure = make_figure(config)
        studio = Studio(device=choose_device(options), data=Path(options.data), memory=options.memory, output=output,
                        evaluation=make_evaluation(config, Path(options.data)))
        look.save(figure.draw(studio), output)
    print(f'wrote {output}')


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description='Draws figures of models; docs/figures.md shows them all.')
    parser.add_argument('kind', nargs='?', metavar='KIND', help=f"of {', '.join(sorted(FIGURES.entries))}; default: that of "
                                                                '-config')
    parser.option('config', metavar='FILE', help='configs/figures/….yaml, or a test config, whose set -input chooses from')
    parser.config_options()
    parser.option('model', nargs='+', metavar='FILE', help="checkpoints, names of weights in modelzoo/, or 'bicubic'")
    parser.option('names', nargs='+', metavar='NAME', help='of the models, in the figure; default: those of their files')
    parser.option('input', nargs='+', metavar='FILE|DIR',
                  help='HR images, or folders of them; with a test config the names of images of its set')
    parser.option('scale', type=real_number(1, LARGEST_SCALE), metavar='S', help='factor of at least 1')
    parser.option('scales', nargs='+', type=real_number(1, LARGEST_SCALE), metavar='S', help='several factors')
    parser.option('box', nargs='+', type=box, metavar='TOP,LEFT,HEIGHT,WIDTH',
                  help='in pixels of the HR image: one for all images, or one for each')
    parser.option('at', nargs='+', type=point, metavar='Y,X', help='points of the image, from 0,0 (top left) to 1,1')
    parser.option('width', choices=tuple(look.WIDTHS),
                  help=', '.join(f'{name}: {inches} inches' for name, inches in look.WIDTHS.items()))
    parser.option('output', metavar='FILE', help=f"{', '.join(look.SUFFIXES)} (default: output/KIND.png)")
    parser.option('data', default='data', metavar='DIR', help='root of relative paths (default: data)')
    parser.memory_option()
    parser.device_options()
    return parser.parse_args()


def given_arguments(options: argparse.Namespace) -> dict:
    """The arguments of the figure that the command line gives."""
    return {name: getattr(options, name) for name in ARGUMENTS if getattr(options, name) is not None}


def box(text: str) -> list[int]:
    """'TOP,LEFT,HEIGHT,WIDTH' → four whole numbers."""
    return whole_numbers(0, 10 ** 6, 4)(text)


def point(text: str) -> list[float]:
    """'Y,X' → two numbers from 0 to 1."""
    parts = text.split(',')
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f'expected Y,X, such as 0.5,0.25, got {shortened(text)}')
    return [real_number(0, 1)(part.strip()) for part in parts]


if __name__ == '__main__':
    run(main)
