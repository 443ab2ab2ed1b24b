"""The first thing that a command does, before it imports torch, which takes seconds."""
import ctypes
import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# of glibc's malloc.h: numbers of its settings, and the values that may be tried, in bytes (-1: no limit)
ALLOCATOR = {'M_TRIM_THRESHOLD': (-1, [-1]), 'M_TOP_PAD': (-2, [2 ** 26]), 'M_MMAP_THRESHOLD': (-3, [2 ** 30, 2 ** 25])}


def guard() -> None:
    """From here on Ctrl-C and SIGTERM leave with status 130 and one line, and closed standard streams lead nowhere.

    `common.cli.run` takes over the signals while a command runs. Signals that the caller had ignored stay so.
    """
    _open_closed_streams()
    _keep_freed_memory()
    _wait_shortly()
    if sys.platform == 'darwin':  # what PyTorch has not written for the GPUs of Apple runs on the CPU
        os.environ.setdefault('PYTORCH_ENABLE_MPS_FALLBACK', '1')
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs have it
            signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    """Ends the process at once."""
    os.write(2, b'interrupted\n')
    os._exit(130)


def _keep_freed_memory() -> None:
    """Lets glibc's allocator keep what tensors free, for the next ones.

    By default it gives large blocks back at once, and the system clears every page of the next block: a third of the time of
    a large image (docs/speed.md). Where memory is short, `models/memory.py` gives pages back. Settings of the caller's
    environment stay.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt and not any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ):
        for number, values in ALLOCATOR.values():
            any(mallopt(number, value) for value in values)  # the first that this version accepts


def _wait_shortly() -> None:
    """Lets threads that wait for others of GNU's OpenMP sleep soon, so that they take no core from other processes.

    By default they spin for 300,000 turns, and two processes on two cores are four times as slow as in turns
    (docs/speed.md). It chooses 1,000 turns itself where it has more threads than cores, but knows its own alone. Settings of
    the caller's environment stay.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', '1000')


def _open_closed_streams() -> None:
    """Opens standard streams that the caller closed on the null device: no file may take their numbers."""
    for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w' if descriptor else 'r', encoding='utf-8'))  # noqa: SIM115
