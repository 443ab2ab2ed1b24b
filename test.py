"""Measures models on benchmark sets: python test.py -config configs/test/test-set5-4.yaml -model modelzoo/MSIT-S.pth"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
import sys
from pathlib import Path

from common.cli import Parser, choose_device, run
from common.scales import AnyScale, parse_scale
from datasets.protocols import PROTOCOLS
from engine.config import SUITE_KEYS, TEST_KEYS, load_config
from engine.evaluation import metrics
from engine.evaluation.columns import COLUMNS
from engine.evaluation.comparison import Comparison
from engine.evaluation.digest import code_digest
from engine.evaluation.evaluate import format_table
from engine.evaluation.made import measure_folder
from engine.evaluation.suite import folder_sets, folder_suite, is_suite, plain_suite, read_suite
from engine.evaluation.table_files import markdown, write_tables
from engine.yaml_files import to_yaml
from utils import UserError, nearest_name, shortened


def main() -> None:
    options = read_options()
    if options.print_config and options.config:
        print_configs(options.config, options.set)
        return
    check_source(options)
    device = choose_device(options, apple=True)
    measures, columns = metrics.make(options.metrics), checked_columns(options.columns)
    if options.images:
        sets = folder_sets(*folders(options))
        rows = measure_folder(Path(options.images), sets, measures, options.name, code=code_digest())
        print(format_table(rows, [metric.name for metric in measures]))
        return
    data, configs = Path(options.data), options.config or []
    file = configs[0] if configs else ''
    paper = any(map(is_suite, configs))
    if paper and len(configs) > 1:
        raise UserError('-config: a suite is measured alone; measure the other configs by another command')
    if not paper and not options.model:
        raise UserError("-model: expected a checkpoint, or 'bicubic'; only a suite names its own models")
    if options.reuse and (options.fresh or options.save_images):
        raise UserError('-reuse: not together with -fresh or -save-images, which measure everything again')
    suite = (read_suite(file, data, options.model, options.set) if paper
             else plain_suite(configs, data, options.model, options.set) if configs
             else folder_suite(*folders(options), options.model))
    single = not paper and len(options.model) == 1
    comparison = Comparison(suite, device, measures, name=options.name if single else None, save_images=options.save_images,
                            memory=options.memory, kernels=not options.no_kernels, fresh=options.fresh, reuse=options.reuse,
                            count_macs='macs' in columns, ensemble=options.ensemble)
    comparison.measure()
    if outdated := comparison.count_outdated():
        print(f'-reuse: {outdated} of the results were made by other code than this', file=sys.stderr)
    if single:
        print(format_table(comparison.rows(), comparison.metric_names))
        return
    measurements = comparison.measurements()
    folder = Path('test') / (options.name or (Path(file).stem if paper else 'comparison'))
    write_tables(folder, suite.title, measurements, comparison.metric_names, columns)
    print(markdown(suite.title, measurements, comparison.metric_names, columns), end='')


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description='Measures models; prints a table and writes test/NAME/results.json and results.md for each, '
                                'and with several models or a suite test/NAME/table.md, .tex, .csv and .json. '
                                'What is finished is kept: the same command continues.')
    parser.option('config', nargs='+', metavar='FILE',
                  help='one or more of configs/test/test-….yaml, or a suite such as configs/test/paper-table1.yaml')
    parser.config_options()
    parser.option('hr', metavar='DIR', help='in the place of -config: a folder of HR images, measured at -scales')
    parser.option('lr', metavar='DIR', help='folder of their LR images, or of a folder X2, X2.5, X2x3, … of them for each '
                                            "scale; matched by name (default: Pillow's bicubic of the HR images)")
    parser.option('scales', nargs='+', metavar='S', help='factors such as 2 2.5 2x3; 2x3 is height by width')
    parser.option('protocol', metavar='NAME',
                  help=f"for -hr, of {', '.join(PROTOCOLS.entries)} (default: benchmark)")
    parser.option('images', metavar='DIR', help='in the place of -model: upscaled images made elsewhere, names as in -hr')
    parser.option('model', nargs='+', metavar='FILE',
                  help="checkpoints, names of weights in modelzoo/, or 'bicubic'; default: those of the suite")
    parser.name_option("in tables, and of the folder test/NAME; default: the checkpoint's name; with several models or a "
                       "suite, of the table's folder alone")
    parser.option('data', default='data', metavar='DIR', help='root of the relative paths in the configs (default: data)')
    parser.option('metrics', nargs='+', default=list(metrics.DEFAULT), metavar='METRIC',
                  help=f"what is measured, of {', '.join(metrics.METRICS.entries)} (default: {' '.join(metrics.DEFAULT)})")
    parser.option('columns', nargs='+', default=[], metavar='COLUMN',
                  help=f"more columns for the table of several models, of {', '.join(COLUMNS)}")
    parser.option('fresh', action='store_true', help='measure everything again, whatever is kept')
    parser.option('reuse', action='store_true', help='use kept results also where the code has changed since')
    parser.option('ensemble', action='store_true',
                  help="measure the average over eight flips and rotations of each image; names of models end in '+'")
    parser.option('save-images', action='store_true', help='keep the upscaled images in test/NAME/SET/X{scale}/; '
                                                           'measures everything again')
    parser.memory_option()
    parser.device_options(apple=True)
    parser.kernels_option()
    return parser.parse_args()


def check_source(options: argparse.Namespace) -> None:
    """Raises UserError unless the options say what is measured, and on which images."""
    if bool(options.config) == bool(options.hr):
        raise UserError('-config: expected a config file, or -hr with a folder of images in its place')
    if options.config and (options.lr or options.scales or options.protocol or options.images):
        raise UserError('-lr, -scales, -protocol, -images: only with -hr; a config names its own images and scales')
    if options.hr and not options.scales:
        raise UserError('-scales: expected one factor or several, such as 2 2.5 2x3')
    if options.hr and (options.set or options.print_config):
        raise UserError('-set, -print-config: only with -config; -hr has no keys')
    if options.images and (options.model or options.lr):
        raise UserError('-images: not together with -model or -lr; it measures images that are upscaled already')


def folders(options: argparse.Namespace) -> tuple[Path, Path | None, list[AnyScale], str]:
    """The HR folder, the LR folder, the scales and the protocol of -hr."""
    scales = []
    for text in options.scales:
        scale = parse_scale(text)
        if scale is None:
            raise UserError(f'-scales {shortened(text, quotes=False)}: expected a factor of at least 1, such as 2 or 2.5, '
                            'or two, height by width, such as 2x3')
        scales.append(scale)
    return Path(options.hr), Path(options.lr) if options.lr else None, scales, options.protocol or 'benchmark'


def print_configs(files: list[str], overrides: list[str]) -> None:
    """Prints each config as it would be used, one YAML document per file."""
    configs = [load_config(file, SUITE_KEYS if is_suite(file) else TEST_KEYS, overrides) for file in files]
    print('---\n'.join(map(to_yaml, configs)), end='')


def checked_columns(names: list[str]) -> list[str]:
    """The names of columns, each once. Raises: UserError that lists the choices."""
    for name in names:
        if name not in COLUMNS:
            raise UserError(f"-columns: unknown column '{name}'; {nearest_name(name, COLUMNS)}")
    return list(dict.fromkeys(names))


if __name__ == '__main__':
    run(main)
