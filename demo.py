"""Upscales an image to any size: python demo.py -input a.png -scale 3.5 -output b.png

Without arguments it upscales the bundled sample with the bundled weights.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from argparse import Namespace
from pathlib import Path

import torch

import models
from common.cli import Parser, choose_device, choose_precision, run
from common.ranges import whole_number
from engine.files import add_file_options, chosen_files
from engine.films import plan_film, upscale_film
from engine.info import add_info_option, print_info
from engine.jobs import add_job_options, chosen_jobs, plan
from engine.modes import check_options
from engine.sizes import MAX_SIDE, add_size_options, chosen_size
from engine.upscaling import Work, upscale_files
from engine.zoom import add_zoom_options, plan_zoom, write_zoom
from models.contract import SRModel
from web import add_web_options, plan_web


def main() -> None:
    options = read_options()
    if options.info:
        return print_info(options.info)
    if show := plan_web(options):
        return show(load_model(options))
    if zoom := plan_zoom(options):
        return write_zoom(load_model(options), zoom)
    size, files = chosen_size(options), chosen_files(options)
    if film := plan_film(chosen_jobs(options), size, files):
        return upscale_film(load_model(options), film, options.memory, options.halo)
    jobs = plan(chosen_jobs(options), size, files)
    work = Work(size, files, options.memory, options.halo, label=Path(options.model).stem)
    return upscale_files(load_model(options), jobs, work)


def read_options() -> Namespace:
    """The command line. Raises UserError for an option without effect on what the others ask for."""
    parser = Parser(description='Upscales images to any size.')
    add_job_options(parser)
    parser.option('model', default='MSIT-S', metavar='FILE',
                  help="a checkpoint, the name of weights in modelzoo/, or 'bicubic' (default: %(default)s)")
    sizes = add_size_options(parser)
    parser.option('config', metavar='FILE', help='for a -model of tensors alone: a training config that names their network')
    add_zoom_options(parser, sizes)
    add_web_options(parser, sizes)
    add_info_option(sizes)
    parser.memory_option()
    parser.option('halo', type=whole_number(0, MAX_SIDE), metavar='N',
                  help='LR pixels around each part of an image too large for the memory that the encoder sees; '
                       'fewer than its receptive field save time, and the error is measured (default: all, no error)')
    parser.option('ensemble', action='store_true',
                  help='the average over the eight flips and rotations of the image: a little better, eight times as long')
    add_file_options(parser)
    parser.device_options(apple=True)
    parser.precision_option()
    parser.kernels_option()
    options, given = parser.parse_given()
    check_options(options, given)
    return options


def load_model(options: Namespace) -> SRModel:
    """The model of -model on the device of -device, in the precision of -precision, with -ensemble that of eight turns."""
    device = choose_device(options, apple=True)
    precision = choose_precision(options, device)
    network = None
    if options.config:
        from engine.config import TRAIN_KEYS, load_config  # imports the data sets
        network = load_config(options.config, TRAIN_KEYS)
    model = models.load(options.model, device, network).use_kernels(not options.no_kernels, precision or torch.float32)
    model.precision = precision
    return models.SelfEnsemble(model) if options.ensemble else model


if __name__ == '__main__':
    run(main)
