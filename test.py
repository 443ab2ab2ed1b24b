"""Measures a model on benchmark sets: python test.py -config configs/test/test-set5-4.yaml -model modelzoo/MSIT-S.pth"""
import json
from pathlib import Path

import datasets
import models
from engine.cli import Parser, choose_device, run
from engine.config import TEST_KEYS, load_config, named
from engine.evaluate import evaluate, format_table, plain_numbers, save_image, to_image
from utils import count_parameters, write_text


def main() -> None:
    parser = Parser(description='Measures a model; prints a table and writes test/NAME/results.json and results.md.')
    parser.option('config', required=True, nargs='+', metavar='FILE', help='one or more of configs/test/….yaml')
    parser.option('model', required=True, metavar='FILE', help="a checkpoint, or 'bicubic'")
    parser.option('name', metavar='NAME', help="in tables, and of the folder test/NAME; default: the checkpoint's name")
    parser.option('data', default='data', metavar='DIR', help='root of the relative paths in the configs (default: data)')
    parser.option('save-images', action='store_true', help='keep the upscaled pictures in test/NAME/SET/X{scale}/')
    parser.memory_option()
    parser.device_options()
    options = parser.parse_args()

    device = choose_device(options)
    name = options.name or Path(options.model).stem
    sets = []
    for file in options.config:
        config = load_config(file, TEST_KEYS)
        with named(file):
            sets.append(datasets.make(config['test_dataset'], Path(options.data), 'test_dataset'))
    model = models.load(options.model, device)
    folder = Path('test') / name

    rows = []
    for dataset in sets:
        def save(pair, scale, prediction, folder=folder / dataset.name):
            save_image(to_image(prediction), folder / f'X{scale:g}' / f'{Path(pair.name).stem}.png')
        rows += evaluate(model, dataset, device, name, save if options.save_images else None,
                         options.memory)
    results = {'model': name, 'params': count_parameters(model), 'device': str(device), 'rows': rows}
    write_text(folder / 'results.json', json.dumps(plain_numbers(results), indent=1) + '\n')
    write_text(folder / 'results.md', format_table(rows) + '\n')
    print(format_table(rows))


if __name__ == '__main__':
    run(main)
