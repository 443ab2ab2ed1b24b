"""Runs a command in a forked process: PyTorch is imported once for all of them. It sees what the command does."""
import contextlib
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from common.start import SIGNALS, guard
from tests.hostile.case import Outcome

ADDRESSES = 4 * 2 ** 30  # bytes of addresses that a command may take beyond those at its start: protects the machine
NOBODY = 65534
STREAMS = ('out', 'err', 'actions')
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {'os.mkdir': 0, 'os.rename': 1, 'os.remove': 0, 'os.rmdir': 0, 'os.symlink': 1, 'os.link': 1, 'os.truncate': 0,
            'os.chmod': 0, 'os.chown': 0}  # event → which of its arguments is the path that changes
_STARTS = ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.forkpty')
_HARMLESS = ('/dev/null', '/dev/tty', '/dev/shm/')


class Process:
    """A command that runs in `yard`/case. Its streams are pipes: no limit on files holds for them.

    Args:
        main: the command, which takes its options from sys.argv.
        words: sys.argv.
        workers: it may fork.
        file_size: most bytes of a file.
        unprivileged: give up the rights of root.
    """

    def __init__(self, main: Callable[[], None], words: list[str], yard: Path, *, workers: bool = False,
                 file_size: int | None = None, unprivileged: bool = False):
        self.started = time.monotonic()
        pipes = [os.pipe() for _ in STREAMS]
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new process has its own handlers
        self.number = os.fork()
        if not self.number:
            try:
                status = 1
                status = _work(main, words, yard, [pipe[1] for pipe in pipes], workers, file_size, unprivileged)
            finally:
                os._exit(status)  # whatever happens, what is around belongs to the first process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.streams = {name: (pipe[0], bytearray()) for name, pipe in zip(STREAMS, pipes)}
        for reading, writing in pipes:
            os.close(writing)
            os.set_blocking(reading, False)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def signal(self, number: int) -> None:
        os.kill(self.number, number)

    def finished(self, limit: float) -> Outcome | None:
        """The outcome, None while the command runs; one that runs longer than `limit` seconds is ended."""
        late = self.seconds > limit
        if late:
            os.kill(self.number, signal.SIGKILL)
        ended, status, usage = os.wait4(self.number, 0 if late else os.WNOHANG)
        self._read()
        if not ended:
            return None
        for reading, _ in self.streams.values():
            os.close(reading)
        out, err, actions = (text.decode('utf-8', 'backslashreplace') for _, text in self.streams.values())
        start, _, actions = actions.partition('\n')
        return Outcome(status=None if late else os.waitstatus_to_exitcode(status), out=out, err=err, seconds=self.seconds,
                       growth=1024 * usage.ru_maxrss - int(start or 0),
                       actions=tuple(dict.fromkeys(actions.splitlines())))

    def _read(self) -> None:
        """Takes what the command has printed since."""
        for reading, text in self.streams.values():
            with contextlib.suppress(BlockingIOError):
                while part := os.read(reading, 2 ** 16):
                    text += part

    def wait(self, limit: float) -> Outcome:
        while (outcome := self.finished(limit)) is None:
            time.sleep(0.002)
        return outcome


def _work(main: Callable[[], None], words: list[str], yard: Path, streams: list[int], workers: bool, file_size: int | None,
          unprivileged: bool) -> int:
    """What the new process does; returns the exit status."""
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        guard()
        _open_streams(*streams[:2])
        os.write(streams[2], f'{_memory()[1]}\n'.encode())
        tempfile.tempdir = str(yard / 'tmp')
        os.chdir(yard / 'case')
        _limit(file_size, unprivileged)
        _watch(yard, streams[2], workers)
        sys.argv = words
        tqdm.set_lock(threading.RLock())  # its own lock is shared by all forked processes, and one is killed while it has it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            with contextlib.suppress(RuntimeError):  # interrupted before it had started
                thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _open_streams(out: int, err: int) -> None:
    """Makes pipes the standard streams."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, 'w', encoding='utf-8', closefd=False)  # noqa: SIM115
    sys.stderr = open(2, 'w', encoding='utf-8', errors='backslashreplace', buffering=1, closefd=False)  # noqa: SIM115


def _memory() -> tuple[int, int]:
    """Bytes of this process's addresses, and of its memory in use."""
    addresses, used = Path('/proc/self/statm').read_text().split()[:2]
    return int(addresses) * resource.getpagesize(), int(used) * resource.getpagesize()


def _limit(file_size: int | None, unprivileged: bool) -> None:
    """Limits of memory, files and rights."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory()[0] + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size,) * 2)
    if unprivileged and os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _watch(yard: Path, notes: int, workers: bool) -> None:
    """Notes in the pipe `notes` each file written outside of case and tmp, each process started, each connection."""
    harmless, home = (*_HARMLESS, f'/proc/{os.getpid()}/', f'{yard / "tmp"}/'), str(yard / 'case')
    joined, isinstance_, fsdecode = os.path.join, isinstance, os.fsdecode

    def note(line: str) -> None:
        os.write(notes, f'{line[:300]}\n'.encode('utf-8', 'backslashreplace'))

    def changed(path: object) -> None:
        if not isinstance_(path, (str, bytes, os.PathLike)):
            return
        whole = os.path.realpath(joined(os.getcwd(), fsdecode(path)))
        if not (whole == home or whole.startswith(f'{home}/') or whole.startswith(harmless)):
            note(f'writes {whole!r}')

    def hook(event: str, arguments: tuple) -> None:
        if event == 'open':
            if isinstance_(arguments[2], int) and arguments[2] & _WRITING:
                changed(arguments[0])
        elif event in _CHANGES:
            if not (isinstance_(arguments[-1], int) and arguments[-1] >= 0 and event in ('os.remove', 'os.rmdir')):
                changed(arguments[_CHANGES[event]])
        elif event in _STARTS:
            if not (event == 'os.fork' and workers) and not (event == 'subprocess.Popen' and arguments[0] == 'git'):
                note(f'starts {event} {arguments!r}')
        elif event == 'socket.connect' and arguments[1] != ('127.0.0.1', 9):  # the proxy that leads nowhere
            note(f'connects to {arguments[1]!r}')
    sys.addaudithook(hook)
