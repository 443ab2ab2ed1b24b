"""Every command that opens a checkpoint refuses foreign tensors, and files that cannot be read, in one line."""
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from config_files import change
from helpers import call, message
from lab import Lab, one_error_line
from test_commands import COMMANDS

import models
from engine.tools import average, export, grow

WEIGHT = 'encoder.head.0.weight'
TENSORS: dict[str, Callable] = {
    'quantised': lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), 'sparse': lambda w: w.to_sparse(),
    'compressed': lambda w: w.flatten(1).to_sparse_csr(), 'complex': lambda w: w.to(torch.complex64),
    'meta': lambda w: w.to('meta'), 'nested': lambda w: torch.nested.nested_tensor([w[0], w[1]]),
    'jagged': lambda w: torch.nested.nested_tensor([w[0], w[1]], layout=torch.jagged), 'list': lambda w: w.tolist(),
    'none': lambda w: None, 'text': lambda w: 'text', 'float8': lambda w: w.to(torch.float8_e4m3fn),
    'not finite': lambda w: torch.full_like(w, torch.nan), 'expanded': lambda w: w[:1].expand(10 ** 9, -1, -1, -1)}


def loop(path: Path) -> None:
    path.symlink_to(path.name)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {  # what lies there, and what is said of it
    'missing': (lambda path: None, 'no such checkpoint file'), 'empty': (Path.touch, 'not a checkpoint'),
    'a folder': (Path.mkdir, 'is a folder, expected a checkpoint file'), 'a circle of links': (loop, 'cannot be opened'),
    'a dead link': (lambda path: path.symlink_to('nowhere'), 'no such checkpoint file'),
    'text': (lambda path: path.write_text('hello'), 'not a checkpoint'),
    'a pickle': (lambda path: torch.save(torch.zeros(2), path), 'expected a checkpoint'),
    **({'a FIFO': (os.mkfifo, 'is no regular file, expected a checkpoint file')} if hasattr(os, 'mkfifo') else {}),
    **({'a broken disk': (lambda path: path.symlink_to('/proc/self/mem'), 'cannot be read (Input/output error)')}
       if sys.platform == 'linux' else {})}

DEMO = ('-input', 'data/images/0.png', '-scale', '1', '-output', 'out.png', '-device', 'cpu', '-model')
TRAIN = ('-config', 'tiny.yaml', '-name', 'new', '-device', 'cpu')
CALLS: dict[str, tuple[Callable[[], None], tuple]] = {  # where the file is bad.pth
    'demo': (COMMANDS['demo'], (*DEMO, 'bad.pth')),
    'test': (COMMANDS['test'], ('-config', 'v.yaml', '-model', 'bad.pth', '-device', 'cpu')),
    'test of two': (COMMANDS['test'], ('-config', 'v.yaml', '-model', 'good.pth', 'bad.pth', '-device', 'cpu')),
    'export': (export.main, ('-model', 'bad.pth', '-output', 'out.pth')),
    'average': (average.main, ('-models', 'bad.pth', 'good.pth', '-output', 'out.pth')),
    'average, second': (average.main, ('-models', 'good.pth', 'bad.pth', '-output', 'out.pth')),
    'grow': (grow.main, ('-model', 'bad.pth', '-config', 'deep.yaml', '-output', 'out.pth')),
    'pretrain': (COMMANDS['train'], (*TRAIN, '-pretrain', 'bad.pth')),
    'resume': (COMMANDS['train'], (*TRAIN, '-resume', 'bad.pth'))}


@pytest.mark.slow
@pytest.mark.parametrize('command', CALLS)
@pytest.mark.filterwarnings('ignore')
def test_files_that_no_command_can_use(lab: Lab, command):
    assert lab.train('run', epoch_max=1).status == 0
    Path('v.yaml').write_text(yaml.safe_dump({'test_dataset': lab.config['val_dataset']}))
    deep = change(lab.config, 'model.args.encoder_spec.args.n_resblocks', 2)
    Path('deep.yaml').write_text(yaml.safe_dump(deep))
    content, bad = lab.loaded('run'), Path('bad.pth')
    torch.save(content, 'good.pth')
    before = sorted(Path().rglob('*'))
    main, words = CALLS[command]

    def refused(kind: str, *parts: str) -> None:
        done = call(main, words, lab.capsys, lab.monkeypatch)
        assert done.status == 2 and one_error_line(done, 'bad.pth: ', *parts) and len(done.err) < 600, (kind, done)
        bad.rmdir() if kind == 'a folder' else bad.unlink(missing_ok=True)
        assert sorted(Path().rglob('*')) == before, kind
    state = content['model']['sd']
    for kind, make in TENSORS.items():
        torch.save(change(content, 'model.sd', {**state, WEIGHT: make(state[WEIGHT])}), bad)
        refused(kind, WEIGHT)
    for kind, (make, words_of_it) in FILES.items():
        make(bad)
        refused(kind, words_of_it)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads every file: for as long as this lasts, the process is somebody else."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != 'posix', reason='needs permissions')
def test_a_file_without_permission():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / 'x.pth'
        path.write_bytes(b'x')
        path.chmod(0)
        with unprivileged():
            assert message(models.load, path) == f'{path}: cannot be read (Permission denied)'
