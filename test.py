"""Measures models on benchmark sets: python test.py -config configs/test/test-set5-4.yaml -model modelzoo/MSIT-S.pth"""
from pathlib import Path

from common.cli import Parser, choose_device, run
from engine.evaluation.evaluate import format_table
from engine.evaluation.suite import Run, is_suite, plain_suite, read_suite
from engine.evaluation.tables import COLUMNS, markdown, write_tables
from utils import UserError


def main() -> None:
    parser = Parser(description='Measures models; prints a table and writes test/NAME/results.json and results.md for each, '
                                'and with several models or a suite test/NAME/table.md, .tex, .csv and .json. '
                                'What is finished is kept: the same command continues.')
    parser.option('config', required=True, nargs='+', metavar='FILE',
                  help='one or more of configs/test/test-….yaml, or a suite such as configs/test/paper-table1.yaml')
    parser.option('model', nargs='+', metavar='FILE',
                  help="checkpoints, names of weights in modelzoo/, or 'bicubic'; default: those of the suite")
    parser.option('name', metavar='NAME', help="in tables, and of the folder test/NAME; default: the checkpoint's name; "
                                               "with several models or a suite, of the table's folder alone")
    parser.option('data', default='data', metavar='DIR', help='root of the relative paths in the configs (default: data)')
    parser.option('columns', nargs='+', default=[], choices=COLUMNS, metavar='COLUMN',
                  help=f"more columns for the table of several models: {', '.join(COLUMNS)}")
    parser.option('fresh', action='store_true', help='measure everything anew, whatever is kept')
    parser.option('save-images', action='store_true', help='keep the upscaled images in test/NAME/SET/X{scale}/; '
                                                           'measures everything anew')
    parser.memory_option()
    parser.device_options()
    parser.kernels_option()
    options = parser.parse_args()

    device = choose_device(options)
    data, file = Path(options.data), options.config[0]
    paper = any(map(is_suite, options.config))
    if paper and len(options.config) > 1:
        raise UserError('-config: a suite is measured alone; run the others by a command of their own')
    if not paper and not options.model:
        raise UserError("-model: expected a checkpoint, or 'bicubic'; only a suite names its own models")
    suite = read_suite(file, data, options.model) if paper else plain_suite(options.config, data, options.model)
    single = not paper and len(options.model) == 1
    measured = Run(suite, device, name=options.name if single else None, save_images=options.save_images,
                   memory=options.memory, kernels=not options.no_kernels, fresh=options.fresh,
                   count_macs='macs' in options.columns)
    measured.measure()
    if single:
        print(format_table(measured.rows()))
        return
    cells = measured.cells()
    folder = Path('test') / (options.name or (Path(file).stem if paper else 'comparison'))
    write_tables(folder, suite.title, cells, options.columns)
    print(markdown(suite.title, cells, options.columns), end='')


if __name__ == '__main__':
    run(main)
