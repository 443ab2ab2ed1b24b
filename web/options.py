"""The options of the page. What serves it is an extra: `pip install starlette uvicorn`."""
import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

from common.cli import Parser
from common.ranges import whole_number
from models.contract import SRModel
from utils import UserError

HOST, PORT = '127.0.0.1', 8000
PACKAGES = ('starlette', 'uvicorn')
MISSING = f'-web: needs two more packages: pip install {" ".join(PACKAGES)}'


def add_web_options(parser: Parser, sizes: argparse._MutuallyExclusiveGroup) -> None:
    """The options of the page.

    Args:
        sizes: the parser's group of options that exclude each other.
    """
    sizes.add_argument('-web', '--web', action='store_true', help='serve a page on which images are looked at and upscaled')
    parser.option('port', type=whole_number(0, 65535), metavar='N',
                  help=f'port of the page (default: {PORT}); 0 takes a free one')
    parser.option('host', metavar='ADDRESS',
                  help=f'address of the page (default: {HOST}, for this machine only); 0.0.0.0 serves the network')


def plan_web(options: argparse.Namespace) -> Callable[[SRModel], None] | None:
    """What serves the page that the options describe, until it is interrupted; None without -web.

    Raises: UserError for wrong options, missing packages, and an address that cannot be used.
    """
    if not options.web:
        return None
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise UserError(MISSING)
    from web.server import bind, serve  # an extra
    host = options.host or HOST
    listener = bind(host, PORT if options.port is None else options.port)
    return lambda model: serve(model, Path(options.model).stem, host, listener)
