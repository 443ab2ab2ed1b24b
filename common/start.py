"""The first thing that a command does, before it imports torch, which takes seconds."""
import os
import signal
import sys

from common.allocator import keep_freed_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def guard() -> None:
    """From here on Ctrl-C and SIGTERM leave with status 130 and one line, and closed standard streams lead nowhere.

    `common.cli.run` takes over the signals while a command runs. Signals that the caller had ignored stay so.
    """
    _open_closed_streams()
    keep_freed_memory()
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


def _wait_shortly() -> None:
    """Lets threads that wait for others of GNU's OpenMP sleep soon, so that they take no core from other processes.

    By default they spin for 300,000 turns, and two commands on two cores take 1.7 times as long (docs/speed.md). It
    chooses 1,000 turns itself where it has more threads than cores, but knows its own alone. Settings of
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
