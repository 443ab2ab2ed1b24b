"""One attack: a command, the folder that it works in, and what it may do."""
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Case:
    """An attack.

    Attributes:
        command: key of the commands: 'demo', 'train', …
        words: the options, as on the command line.
        odd: what is odd about the input, in words.
        names: texts of which the line of an error must contain one: the thing that is wrong.
        outputs: files, relative to the folder, that are complete when the status is 0.
        writes: files and folders, relative to the folder, that the command may change.
        lines: regular expression of lines on stderr that may come before the last one, or with status 0.
        copies: what is written is as damaged as the input, which a status other than 0 says.
        may_fail: status 1 is expected: the disk takes nothing.
        workers: the command may start processes of its own.
        file_size: most bytes of a file, which stands for a full disk; None for no limit.
        unprivileged: the command runs as a user who owns nothing.
        verify: looks at the folder after status 0; returns what is wrong, or None.
    """
    command: str
    words: list[str]
    odd: str
    names: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    lines: str = ''
    copies: bool = False
    may_fail: bool = False
    workers: bool = False
    file_size: int | None = None
    unprivileged: bool = False
    verify: Callable[[Path], str | None] = field(default=lambda folder: None)


@dataclass(kw_only=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: exit status, −N when signal N ended it; None when it had to be ended because it took too long.
        seconds: that it took.
        growth: bytes of memory that it needed at most, beyond those at its start.
        actions: what it did outside of its folder: files written, processes started, connections made.
    """
    status: int | None
    out: str
    err: str
    seconds: float
    growth: int
    actions: tuple[str, ...] = ()
