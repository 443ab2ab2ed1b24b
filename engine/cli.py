"""What the three commands share: options with one dash or two, the device, and how errors leave the program."""
import argparse
import errno
import re
import sys
from collections.abc import Callable

import torch

from utils import RunError, UserError


class Parser(argparse.ArgumentParser):
    """Accepts every option with one dash or two, and reports a wrong one in a single line."""

    def option(self, name: str, **settings) -> None:
        """Adds the option -name, also written --name."""
        self.add_argument(f'-{name}', f'--{name}', **settings)

    def device_options(self) -> None:
        self.option('device', metavar='NAME', help="'cpu', 'cuda' or 'cuda:N'; default: the first GPU, else the CPU")
        self.option('gpu', type=int, metavar='N', help='the GPU to use')

    def memory_option(self) -> None:
        self.option('memory', type=parse_memory, metavar='SIZE',
                    help='memory for upscaling, such as 2G or 500M (default: a modest share of what is free); '
                         'larger pictures are processed in parts')

    def error(self, message: str):
        raise UserError(f'{message} (see {self.prog} -h)')


def parse_memory(text: str) -> int:
    """'2G', '500M' or a number of bytes → bytes."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?', text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1024 ** ' KMGT'.index(match[2].upper() or ' ')) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 2G or 500M, got '{text}'")
    return size


def choose_device(options: argparse.Namespace) -> torch.device:
    """The device of -device or -gpu; without either the first GPU, or the CPU on a machine that has none.

    Turns TF32 convolutions off, which torch has on: a GPU's results are then the CPU's to rounding.
    """
    torch.backends.cudnn.allow_tf32 = False
    if options.device is not None:
        if not re.fullmatch(r'cpu|cuda(:\d+)?', options.device):
            raise UserError(f"-device {options.device}: no such device, expected 'cpu', 'cuda' or 'cuda:N'")
        device = torch.device(options.device)
        if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f'-device {options.device}: this machine has {torch.cuda.device_count()} GPUs')
        return device
    if torch.cuda.device_count() == 0:
        return torch.device('cpu')
    number = options.gpu or 0
    if not 0 <= number < torch.cuda.device_count():
        raise UserError(f'-gpu {number}: this machine has {torch.cuda.device_count()} GPUs, counted from 0')
    return torch.device('cuda', number)


def run(main: Callable[[], None]) -> None:
    """Runs a command: exit status 0 done, 2 wrong input, 130 interrupted, 1 anything else, told in one line on stderr."""
    try:
        main()
    except UserError as error:
        leave(2, f'error: {told_by(error)}')
    except KeyboardInterrupt as interrupt:
        leave(130, f'interrupted{": " if interrupt.args else ""}{" ".join(map(str, interrupt.args))}')
    except (RunError, MemoryError, torch.OutOfMemoryError) as error:
        leave(1, f'error: {told_by(error) or "out of memory"}')
    except OSError as error:
        advice = '; free some space and run it again' if error.errno == errno.ENOSPC else ''
        leave(1, f'error: {told_by(error)}{advice}')
    except RuntimeError as error:
        if not str(error).startswith('DataLoader worker (pid'):
            raise
        leave(1, f'error: {error}; it may have run out of memory or of shared memory: a lower num_workers needs less')


def told_by(error: Exception) -> str:
    """What an error says, without the traceback that comes before it when it was raised in a data loader's worker."""
    if not str(error).startswith('Caught '):
        return str(error)
    return re.split(rf'^(?:\w+\.)*{type(error).__name__}(?:: |$)', str(error), flags=re.MULTILINE)[-1].strip()


def leave(status: int, message: str) -> None:
    """Prints one line on stderr and exits."""
    print(' '.join(message.split()), file=sys.stderr)
    sys.exit(status)
