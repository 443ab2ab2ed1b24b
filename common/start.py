"""The first thing that a command does, before it imports torch, which takes seconds."""
import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def guard() -> None:
    """From here on Ctrl-C and SIGTERM leave with status 130 and one line, and closed standard streams lead nowhere.

    `common.cli.run` takes over the signals while a command runs. Signals that the caller had ignored stay so.
    """
    _open_closed_streams()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs have it
            signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    """Ends the process at once."""
    os.write(2, b'interrupted\n')
    os._exit(130)


def _open_closed_streams() -> None:
    """Opens standard streams that the caller closed on the null device: no file may take their numbers."""
    for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w' if descriptor else 'r', encoding='utf-8'))  # noqa: SIM115
