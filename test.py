"""Measures models on benchmark sets: python test.py -config configs/test/test-set5-4.yaml -model modelzoo/MSIT-S.pth"""
import argparse
import sys
from pathlib import Path

from common.cli import Parser, choose_device, run
from engine.config import SUITE_KEYS, TEST_KEYS, load_config
from engine.evaluation import metrics
from engine.evaluation.columns import COLUMNS
from engine.evaluation.comparison import Comparison
from engine.evaluation.evaluate import format_table
from engine.evaluation.suite import is_suite, plain_suite, read_suite
from engine.evaluation.table_files import markdown, write_tables
from engine.yaml_files import to_yaml
from utils import UserError, nearest_name


def main() -> None:
    options = read_options()
    if options.print_config:
        print_configs(options.config, options.set)
        return
    device = choose_device(options)
    measures, columns = metrics.make(options.metrics), checked_columns(options.columns)
    data, file = Path(options.data), options.config[0]
    paper = any(map(is_suite, options.config))
    if paper and len(options.config) > 1:
        raise UserError('-config: a suite is measured alone; measure the other configs by another command')
    if not paper and not options.model:
        raise UserError("-model: expected a checkpoint, or 'bicubic'; only a suite names its own models")
    if options.reuse and (options.fresh or options.save_images):
        raise UserError('-reuse: not together with -fresh or -save-images, which measure everything again')
    suite = (read_suite(file, data, options.model, options.set) if paper
             else plain_suite(options.config, data, options.model, options.set))
    single = not paper and len(options.model) == 1
    comparison = Comparison(suite, device, measures, name=options.name if single else None, save_images=options.save_images,
                            memory=options.memory, kernels=not options.no_kernels, fresh=options.fresh, reuse=options.reuse,
                            count_macs='macs' in columns)
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
    parser.option('config', required=True, nargs='+', metavar='FILE',
                  help='one or more of configs/test/test-….yaml, or a suite such as configs/test/paper-table1.yaml')
    parser.config_options()
    parser.option('model', nargs='+', metavar='FILE',
                  help="checkpoints, names of weights in modelzoo/, or 'bicubic'; default: those of the suite")
    parser.option('name', metavar='NAME', help="in tables, and of the folder test/NAME; default: the checkpoint's name; "
                                               "with several models or a suite, of the table's folder alone")
    parser.option('data', default='data', metavar='DIR', help='root of the relative paths in the configs (default: data)')
    parser.option('metrics', nargs='+', default=list(metrics.DEFAULT), metavar='METRIC',
                  help=f"what is measured, of {', '.join(metrics.METRICS.entries)} (default: {' '.join(metrics.DEFAULT)})")
    parser.option('columns', nargs='+', default=[], metavar='COLUMN',
                  help=f"more columns for the table of several models, of {', '.join(COLUMNS)}")
    parser.option('fresh', action='store_true', help='measure everything again, whatever is kept')
    parser.option('reuse', action='store_true', help='use kept results also where the code has changed since')
    parser.option('save-images', action='store_true', help='keep the upscaled images in test/NAME/SET/X{scale}/; '
                                                           'measures everything again')
    parser.memory_option()
    parser.device_options()
    parser.kernels_option()
    return parser.parse_args()


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
