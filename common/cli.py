"""What the three commands share: options with one dash or two, the device, and how errors leave the program."""
import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import torch

from common.quiet import silence_libraries
from common.ranges import whole_number
from common.start import SIGNALS
from utils import RunError, UserError, WriteError, is_file_name, is_out_of_memory, printable, short_path, shortened

MAX_MEMORY = 2 ** 50  # bytes
MAX_GPUS = 1024
WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
MESSAGE_LENGTH = 2000  # characters of the line of an error, the end of which is cut
# types of half precision, and the instructions of a CPU that multiply them
_HALF = {'bfloat16': ('avx512_bf16', 'amx_bf16', 'avx10_2', 'bf16'), 'float16': ('avx512_fp16', 'amx_fp16', 'fp16')}


class Parser(argparse.ArgumentParser):
    """Accepts every option with one dash or two, and reports a wrong one in a single line."""

    def parse_given(self) -> tuple[argparse.Namespace, set[str]]:
        """The options, and the names of those on the command line, also where they say what is the default."""
        defaults, absent = vars(self.parse_args([])), object()
        found = vars(self.parse_args(namespace=argparse.Namespace(**dict.fromkeys(defaults, absent))))
        given = {name: value for name, value in found.items() if value is not absent}
        return argparse.Namespace(**{**defaults, **given}), set(given)

    def option(self, name: str, **settings) -> None:
        """Adds the option -name, also written --name."""
        self.add_argument(f'-{name}', f'--{name}', **settings)

    def device_options(self, apple: bool = False) -> None:
        names = "'cpu', 'cuda', 'cuda:N' or 'mps' (a GPU of Apple)" if apple else "'cpu', 'cuda' or 'cuda:N'"
        self.option('device', metavar='NAME', help=f'{names}; default: the first GPU of CUDA, else the CPU')
        self.option('gpu', type=whole_number(0, MAX_GPUS), metavar='N', help='the GPU to use')

    def precision_option(self) -> None:
        self.option('precision', choices=('float32', *_HALF), default='float32',
                    help='of matrix products and convolutions (default: %(default)s); a CPU must have instructions for it')

    def kernels_option(self) -> None:
        self.option('no-kernels', action='store_true', help="plain PyTorch in the place of this project's GPU kernels")

    def config_options(self) -> None:
        self.option('set', nargs='+', action='extend', default=[], metavar='KEY.PATH=VALUE',
                    help='change keys of the config, such as optimizer.args.lr=2e-4; values are YAML, null removes a key')
        self.option('print-config', action='store_true',
                    help='print the config as it would be used, with its base and -set, and do nothing else')

    def memory_option(self) -> None:
        self.option('memory', type=parse_memory, metavar='SIZE',
                    help="memory for upscaling, such as 2G or 500M (default: 1.5G on CPUs, half of a GPU's memory); "
                         'larger images are processed in parts')

    def name_option(self, description: str) -> None:
        self.option('name', type=plain_name, metavar='NAME', help=description)

    def error(self, message: str):
        raise UserError(f'{message[:MESSAGE_LENGTH // 2]} (see {self.prog} -h)')


def parse_memory(text: str) -> int:
    """'2G', '500M' or a number of bytes → bytes."""
    match = re.fullmatch(r'([0-9]{1,16}(?:\.[0-9]{1,16})?)([KMGT]?)(?:i?B)?', text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1024 ** ' KMGT'.index(match[2].upper() or ' ')) if match else 0
    if not 1 <= size <= MAX_MEMORY:
        raise argparse.ArgumentTypeError(f'expected a size such as 2G or 500M, at most 1024T, got {shortened(text)}')
    return size


def plain_name(text: str) -> str:
    """The type of an option that names a folder within one of the program's own."""
    if not is_file_name(text):
        raise argparse.ArgumentTypeError(f'expected a plain name of at most 100 bytes, without / \\ and :, '
                                         f'got {shortened(text)}')
    return text


def choose_device(options: argparse.Namespace, local_rank: int | None = None, tf32: bool = False,
                  apple: bool = False) -> torch.device:
    """The device of -device or -gpu; without either the first GPU, or the CPU on a machine that has none.

    Args:
        local_rank: number of this process on its machine, which is then the number of its GPU; None for a single process.
        tf32: let GPUs round the factors of products to TF32. torch's own default is to do so in convolutions: off, a GPU's
            results are the CPU's to rounding.
        apple: whether the command can use a GPU of Apple, which computes no float64.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if local_rank is not None and options.device != 'cpu':
        if options.gpu is not None or options.device not in (None, 'cuda'):
            raise UserError('each of several processes takes the GPU of its own number: leave -gpu out, and give -device no '
                            "number ('cpu' or 'cuda')")
        if options.device or torch.cuda.device_count():
            options.device = f'cuda:{local_rank}'
    if options.device is not None:
        match = re.fullmatch(r'cpu|mps|cuda(?::([0-9]{1,4}))?', options.device)
        if not match:
            raise UserError(f"-device {shortened(options.device, quotes=False)}: no such device, expected 'cpu', 'cuda' or "
                            "'cuda:N'")
        if options.device == 'mps' and not apple:
            raise UserError('-device mps: this command computes in float64, which the GPUs of Apple do not have; leave '
                            '-device out (demo.py and test.py can use them)')
        if options.device == 'mps' and not torch.backends.mps.is_available():
            raise UserError('-device mps: this machine has no GPU of Apple that PyTorch can use; leave -device out')
        if options.device.startswith('cuda') and int(match[1] or 0) >= torch.cuda.device_count():
            raise UserError(f'-device {options.device}: this machine has {torch.cuda.device_count()} GPUs')
        return torch.device(options.device)
    if torch.cuda.device_count() == 0 and not options.gpu:
        return torch.device('cpu')
    number = options.gpu or 0
    if not 0 <= number < torch.cuda.device_count():
        raise UserError(f'-gpu {number}: this machine has {torch.cuda.device_count()} GPUs, counted from 0')
    return torch.device('cuda', number)


def choose_precision(options: argparse.Namespace, device: torch.device) -> torch.dtype | None:
    """The type of -precision; None for float32.

    Raises: UserError on a CPU without instructions for products of this type, where it takes many times as long.
    """
    if options.precision == 'float32':
        return None
    known: dict = getattr(torch.cpu, 'get_capabilities', dict)()  # older versions of torch do not tell
    if device.type == 'cpu' and known and not any(known.get(name) for name in _HALF[options.precision]):
        raise UserError(f'-precision {options.precision}: this CPU has no instructions for it, and would take many times as '
                        'long as for float32; leave -precision out')
    return getattr(torch, options.precision)


def run(main: Callable[[], None]) -> None:
    """Runs a command: exit status 0 done, 2 wrong input, 130 interrupted, 1 anything else, with one line on stderr."""
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')  # a terminal without × prints ? and the command goes on
    silence_libraries()
    try:
        with _interruptible():
            main()
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        status, message = verdict(_first_cause(error))
        if message is None:
            raise
        line = printable(' '.join(message.split()))
        with suppress(OSError, ValueError):  # nobody reads
            print(line if len(line) <= MESSAGE_LENGTH else f'{line[:MESSAGE_LENGTH - 1]}…', file=sys.stderr)
        _drop_unwritten(sys.stdout)
        sys.exit(status)


def _first_cause(error: BaseException) -> BaseException:
    """The interrupt that an error came from, where code that was interrupted could not even leave; else the error."""
    chain: list[BaseException] = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    return next((link for link in chain if isinstance(link, KeyboardInterrupt)), error)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt in the block, unless the caller had them ignored.

    Python prints and drops what is raised in a finalizer or a callback of a weak reference: such an interrupt comes again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}
    report = sys.unraisablehook
    again = threading.Timer(0, lambda: None)

    def unraisable(dropped: 'sys.UnraisableHookArgs') -> None:
        nonlocal again
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            report(dropped)
        elif not again.is_alive():
            again = threading.Timer(0.01, os.kill, [os.getpid(), next(iter(handled))])  # raised in here it would be dropped
            again.start()

    for number in handled:
        signal.signal(number, _interrupt)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        again.cancel()
        sys.unraisablehook = report
        for number, handler in handled.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    """Signal handler."""
    raise KeyboardInterrupt


def _drop_unwritten(stream: TextIO) -> None:
    """What a full disk or a closed pipe does not take goes nowhere: Python would complain of it when it ends."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def verdict(error: BaseException) -> tuple[int, str | None]:
    """The exit status of an error, and its line on stderr; None for a bug, whose traceback is needed."""
    if isinstance(error, UserError):
        return 2, f'error: {message_of(error)}'
    if isinstance(error, KeyboardInterrupt):
        return 130, f'interrupted{": " if error.args else ""}{" ".join(map(str, error.args))}'
    if isinstance(error, RunError):
        return 1, f'error: {message_of(error)}'
    if is_out_of_memory(error):
        return 1, f'error: out of memory ({message_of(error)})' if message_of(error) else 'error: out of memory'
    if isinstance(error, OSError) and error.errno in WRONG_PATH and _has_path(error) and not isinstance(error, WriteError):
        return 2, f'error: {message_of(error)}'
    if isinstance(error, OSError):
        advice = '; free some space and run it again' if error.errno == errno.ENOSPC else ''
        return 1, f'error: {message_of(error)}{advice}'
    if isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid'):
        return 1, f'error: {error}; it may have run out of memory or of shared memory: a lower num_workers needs less'
    return 1, None


def _has_path(error: OSError) -> bool:
    return isinstance(error.filename, (str, bytes)) and bool(error.filename)


def message_of(error: BaseException) -> str:
    """The message of an error, without the number of a system's error, and what a data loader's worker puts before it."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, WriteError):
        return f'{short_path(os.fsdecode(error.filename))}: {error.strerror}' if _has_path(error) else error.strerror
    if not str(error).startswith('Caught '):
        return str(error)
    return re.split(rf'^(?:\w+\.)*{type(error).__name__}(?:: |$)', str(error), flags=re.MULTILINE)[-1].strip()
