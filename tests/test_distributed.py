"""Training on several processes (gloo, on the CPU): the same numbers as on one, one writer, and one end for all."""
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import yaml
from lab import BATCHES, Lab, differences

import datasets
import models
from engine.distributed import ALONE
from engine.evaluation.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
SGD = {'optimizer': {'name': 'sgd', 'args': {'lr': 0.05}}, 'lr_schedule': None}
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked')


class Ended(NamedTuple):
    """How the processes of a run ended: exit statuses, and what each printed."""
    statuses: list[int]
    out: list[str]
    err: list[str]


def launch(lab: Lab, *arguments, size: int = 2, code: str | None = None) -> Ended:
    """Runs train.py in `size` processes, each in a separate folder, as torchrun would start them on as many machines.

    Their store is kept here, as torchrun keeps it: it outlives any of them.
    """
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    jobs = []
    for rank in range(size):
        folder = lab.folder / f'rank{rank}'
        folder.mkdir(exist_ok=True)
        for stream in ('out.txt', 'err.txt'):
            (folder / stream).write_text('')
        env = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': size, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': store.port,
               'TORCHELASTIC_USE_AGENT_STORE': 'True'}
        words = ['-config', lab.folder / 'tiny.yaml', '-data', lab.folder / 'data', '-device', 'cpu', *arguments]
        jobs.append({'cwd': str(folder), 'arguments': list(map(str, words)),
                     'env': {key: str(value) for key, value in env.items()}, **({'code': code} if code else {})})
    command = [sys.executable, '-W', 'ignore', ROOT / 'tests/launch.py', json.dumps(jobs)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        statuses, _ = launcher.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)  # processes that wait for each other would do so for ever
    outputs = [[(Path(job['cwd']) / stream).read_text() for job in jobs] for stream in ('out.txt', 'err.txt')]
    return Ended(json.loads(statuses), *outputs)


def loaded(lab: Lab, name: str, rank: int = 0) -> dict:
    return torch.load(lab.folder / f'rank{rank}/save/{name}/epoch-last.pth', weights_only=True)


def one_line(ended: Ended, *parts: str) -> bool:
    """Whether the processes printed exactly one line on stderr between them, and it carries all `parts`."""
    err = ''.join(ended.err)
    return err.count('\n') == 1 and all(part in err for part in parts)


# the same numbers

STEPS = '''
import sys
import torch
from pathlib import Path
from engine.config import TRAIN_KEYS, load_config
from engine.distributed import ALONE, join
from engine.training.trainer import Trainer

def steps(folder, cases, data, world):
    """Losses, gradients and buffers of the first steps of each case, an epoch's worth."""
    results = {}
    for name, evaluation in cases.items():
        trainer = Trainer(config=load_config(f'{folder}/{name}.yaml', TRAIN_KEYS), folder=Path('steps') / name,
                          data_root=Path(data), device=torch.device('cpu'), world=world)
        trainer.state.model.train(not evaluation)
        results[name] = []
        for sample in trainer.loader:
            loss, _ = trainer.train_step(sample)
            gradients = {key: p.grad.clone() for key, p in trainer.state.model.named_parameters() if p.grad is not None}
            results[name].append({'loss': loss.clone(), 'gradients': gradients,
                                  'buffers': {key: b.clone() for key, b in trainer.state.model.named_buffers()}})
        trainer.record.close()
    return results
'''
CASES = {  # changes of the config, and whether batch norm is in evaluation mode
    'evaluation': ({}, True),
    'training': ({}, False),
    'rim': ({'reparam': 'rim'}, False),
    'a scale per sample': ({'scale_per': 'sample'}, True),
    'accumulated': ({'accumulate': 2}, True),
    'more parts than samples': ({'accumulate': 3}, True),
    'clipped': ({'clip_grad': 0.01}, True),
    'idle cascades': ({'cascade': [2]}, True),
    'busy cascades': ({'cascade': [4, 4]}, True),
}
CLIT = {'base_dim': 16, 'head': 4, 'r': 1, 'imnet_num': 2, 'conv_num': 2, 'scale_base': 2}


def write_cases(lab: Lab) -> None:
    """Four images in batches of 3: the second batch is a single sample, which leaves one of two processes without any."""
    for name, (change, _) in CASES.items():
        change = dict(change)
        wrapper = {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 16}}
        if 'scale_per' in change:
            wrapper['args']['scale_per'] = change.pop('scale_per')
        args = lab.config['model']['args']
        model = {'name': 'msit', 'args': {**args, 'reparam': change.pop('reparam', 'none')}}
        if 'cascade' in change:
            wrapper['args']['cascade'] = change.pop('cascade')
            model = {'name': 'clit', 'args': {**CLIT, **{key: args[key] for key in args if key.endswith('_spec')}}}
        data = {'dataset': lab.config['train_dataset']['dataset'], 'wrapper': wrapper, 'batch_size': 3}
        lab.write_config(**{**SGD, **change, 'model': model, 'train_dataset': data}).rename(lab.folder / f'{name}.yaml')


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_one_process(lab):
    """To rounding, with batch norm in evaluation mode and in training mode, also where a process has no sample."""
    write_cases(lab)
    cases = {name: evaluation for name, (_, evaluation) in CASES.items()}
    lab.write_config()
    done = launch(lab, code=STEPS + f'''
with join() as world:
    world.connect(torch.device('cpu'))
    torch.save(steps({str(lab.folder)!r}, {cases!r}, {str(lab.folder / 'data')!r}, world), 'steps.pt')
''')
    assert done.statuses == [0, 0]
    hint = 'find_unused_parameters=True was specified'  # torch's, where all cascades take part in the first iteration
    assert [line for err in done.err for line in err.splitlines() if hint not in line] == []
    functions = {}
    exec(STEPS, functions)
    lab.monkeypatch.chdir(lab.folder)
    expected = functions['steps'](lab.folder, cases, lab.folder / 'data', ALONE)
    ranks = [torch.load(lab.folder / f'rank{rank}/steps.pt', weights_only=True) for rank in range(2)]
    assert differences(*ranks) == []  # the processes agree in every bit
    for name in CASES:
        assert len(expected[name]) == 2
        for alone, shared in zip(expected[name], ranks[0][name]):
            assert shared['loss'].item() == pytest.approx(alone['loss'].item(), rel=1e-5)
            largest = max(gradient.abs().max().item() for gradient in alone['gradients'].values())
            assert largest > 1e-3
            for kind in ('gradients', 'buffers'):
                assert shared[kind].keys() == alone[kind].keys()
                for key, value in alone[kind].items():
                    scale = largest if kind == 'gradients' else value.abs().max().item()
                    error = (shared[kind][key] - value).abs().max().item()
                    assert error <= 2e-5 * scale, (name, key, error, scale)


def distance(a: dict, b: dict) -> float:
    """The largest difference between the weights and statistics of two checkpoints."""
    weights, others = a['model']['sd'], b['model']['sd']
    assert weights.keys() == others.keys()
    return max((value - others[key]).abs().max().item() for key, value in weights.items())


@pytest.mark.slow
def test_a_run_is_that_of_one_process_and_has_one_writer(lab):
    """Also when it is resumed: by one process after two, and by two after one."""
    sgd = {**SGD, 'train_dataset': {**lab.config['train_dataset'], 'batch_size': 3}}
    assert lab.train('whole', epoch_max=3, **sgd).status == 0
    whole = lab.loaded('whole')

    assert lab.train('parts', epoch_max=1, **sgd).status == 0
    first = lab.save('parts', 'epoch-1.pth')
    lab.write_config(epoch_max=2, **sgd)
    done = launch(lab, '-name', 'parts', '-resume', first)
    assert done.statuses == [0, 0] and done.err == ['', '']
    assert 'epoch 2/2' in done.out[0] and 'on cpu and 1 more' in done.out[0] and done.out[1] == ''
    assert {path.name for path in (lab.folder / 'rank1').iterdir()} == {'out.txt', 'err.txt'}
    folder = lab.folder / 'rank0/save/parts'
    assert {path.name for path in folder.iterdir()} == {
        'config.yaml', 'log.txt', 'tensorboard', 'epoch-last.pth', 'epoch-best.pth', 'epoch-2.pth'}
    assert len(list((folder / 'tensorboard').iterdir())) == 1
    assert loaded(lab, 'parts').keys() == whole.keys() and (loaded(lab, 'parts')['epoch'], whole['epoch']) == (2, 3)

    assert lab.train('parts', '-resume', folder / 'epoch-last.pth', epoch_max=3, **sgd).status == 0
    parts = lab.loaded('parts')
    assert distance(whole, parts) < 1e-5 < 1e-3 < distance(whole, torch.load(first, weights_only=True))
    assert parts['best'] == pytest.approx(whole['best'], abs=1e-3)
    losses = [line.split(',')[0].split('/3: ')[1] for line in lab.save('whole', 'log.txt').read_text().splitlines()
              if ': loss' in line]
    for epoch, log in ((2, folder), (3, lab.save('parts'))):
        assert f'epoch {epoch}/{epoch}: {losses[epoch - 1]}' in (log / 'log.txt').read_text()


@pytest.mark.slow
def test_second_stage_needs_its_start_in_the_first_process_alone(lab):
    """The kernels that RIM freezes reach the others too: they are buffers, which no gradient would put right."""
    assert lab.train('first', epoch_max=1, **SGD).status == 0
    start = torch.load(lab.save('first', 'epoch-last.pth'), weights_only=True)
    (lab.folder / 'rank0').mkdir()
    torch.save(start, lab.folder / 'rank0/start.pth')
    rim = {**SGD, 'model': {'name': 'msit', 'args': {**lab.config['model']['args'], 'reparam': 'rim'}}, 'epoch_max': 1}
    assert lab.train('second', '-pretrain', 'rank0/start.pth', **rim).status == 0
    done = launch(lab, '-name', 'second', '-pretrain', 'start.pth')
    assert done.statuses == [0, 0] and 'pretrained from start.pth' in done.out[0]
    assert distance(lab.loaded('second'), loaded(lab, 'second')) < 1e-5


@pytest.mark.slow
def test_validation_is_shared(lab):
    """Each process upscales a part of the images, and both end with all rows in order."""
    config = lab.config['val_dataset']
    config['dataset']['args']['first_k'] = 3
    lab.write_config()
    done = launch(lab, code=f'''
import json, torch, datasets, models
from engine.distributed import join
from engine.evaluation.evaluate import evaluate
with join() as world:
    world.connect(torch.device('cpu'))
    seen = []
    rows = evaluate(models.load('bicubic'), datasets.make({config!r}, {str(lab.folder / 'data')!r}), torch.device('cpu'),
                    show=lambda pair, scale, prediction: seen.append([pair.name, scale]), world=world)
    print(json.dumps([rows, seen]))
''')
    assert done.statuses == [0, 0]
    dataset = datasets.make(config, lab.folder / 'data')
    expected = evaluate(models.load('bicubic'), dataset, torch.device('cpu'))

    def timeless(rows: list[dict]) -> list[dict]:
        return [{key: value for key, value in row.items() if key != 'seconds_per_image'} for row in rows]
    (rows, seen), (others, also_seen) = (json.loads(out) for out in done.out)
    assert timeless(rows) == timeless(others) == timeless(json.loads(json.dumps(expected)))
    assert rows == others
    assert seen == [['0.png', 2], ['2.png', 2], ['0.png', 3], ['2.png', 3]] and also_seen == [['1.png', 2], ['1.png', 3]]


# one end for all

def act(rank: int, step: int, action: str) -> str:
    """Code that runs train.py and, in one process, does `action` after a training step (from 1)."""
    return f'''
import os, resource, signal, sys
from pathlib import Path
from engine.training.trainer import Trainer
from utils import UserError
original, done = Trainer.train_step, []
def step(trainer, sample):
    done.append(original(trainer, sample))
    if os.environ['RANK'] == '{rank}' and len(done) == {step}:
        {action}
    return done[-1]
Trainer.train_step = step
run(train.main)
'''


@pytest.mark.slow
def test_a_signal_to_one_stops_all_after_the_same_step(lab):
    """A second one, with which torchrun passes on what the terminal may have sent already, changes nothing.

    With a moving average of the weights, which is resumed bit for bit too.
    """
    lab.write_config(ema_decay=0.9)
    for rank, number, step, position in ((0, 'SIGINT', 2, (0, 2)), (1, 'SIGTERM', 3, (1, 2))):
        stop = act(rank, step, f'[os.kill(os.getpid(), signal.{number}) for _ in range(2)]')
        stopped = launch(lab, '-name', 'run', '-resume', 'auto', code=stop)
        assert stopped.statuses == [130, 130]
        assert one_line(stopped, 'interrupted: saved save/run/epoch-last.pth', '-resume auto')
        assert (loaded(lab, 'run')['epoch'], loaded(lab, 'run')['batch']) == position
    assert launch(lab, '-name', 'run', '-resume', 'auto').statuses == [0, 0]
    assert launch(lab, '-name', 'whole').statuses == [0, 0]
    assert differences(loaded(lab, 'run'), loaded(lab, 'whole')) == []


@pytest.mark.slow
@pytest.mark.parametrize('action, statuses, message', [
    ("raise UserError('images/2.png: broken')", [2, 2], ('error: images/2.png: broken',)),
    ('os.kill(os.getpid(), signal.SIGKILL)', [1, -9], ('error: another process of this run has ended',)),
    ('trainer.state.model.widen.weight.data.fill_(float("nan"))', [1, 1],
     ('error: the loss is nan at epoch 2, iteration 2',)),
], ids=['refused input', 'killed', 'ruined weights'])
def test_an_error_in_one_ends_all(lab, action, statuses, message):
    """Not at the same place of the program: the other is amid a step."""
    lab.write_config()
    done = launch(lab, '-name', 'run', code=act(1, 4, action))
    assert done.statuses == statuses and one_line(done, *message)
    assert (loaded(lab, 'run')['epoch'], loaded(lab, 'run')['batch']) == (1, 0)
    assert not list((lab.folder / 'rank0/save/run').glob('.*'))


@pytest.mark.slow
def test_a_full_disk_of_the_first_ends_all(lab):
    lab.write_config()
    limit = 'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))'
    done = launch(lab, '-name', 'run', code=act(0, 4, limit))
    assert done.statuses == [1, 1] and one_line(done, 'error: save/run/epoch-last.pth: could not be written, is the disk')
    assert loaded(lab, 'run')['epoch'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('wrong, message', [
    ({'epoch_max': 'three'}, 'epoch_max: expected int'),
    ({'optimizer': {'name': 'adam', 'args': {'lr': -1}}}, 'optimizer.args'),
], ids=['before they are connected', 'after'])
def test_an_error_of_all_is_reported_once(lab, wrong, message):
    lab.write_config(**wrong)
    done = launch(lab, '-name', 'run')
    assert done.statuses == [2, 2] and one_line(done, message)
    assert not (lab.folder / 'rank0/save').exists()


@pytest.mark.slow
def test_print_config_of_several_processes(lab):
    """Printed once, and nothing else is done."""
    lab.write_config()
    ended = launch(lab, '-set', 'seed=5', '-print-config')
    assert ended.statuses == [0, 0] and ended.err == ['', ''] and ended.out[1] == ''
    assert yaml.safe_load(ended.out[0]) == {**lab.config, 'seed': 5}
    assert list(lab.folder.glob('rank*/save')) == []


@pytest.mark.slow
def test_torchrun(lab):
    """The command itself; it passes a SIGTERM on to its processes, which finish the step and save."""
    lab.write_config(epoch_max=1000)
    command = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
               ROOT / 'train.py', '-config', 'tiny.yaml', '-name', 'run', '-device', 'cpu']
    running = subprocess.Popen(command, cwd=lab.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'})
    for line in running.stdout:
        if 'epoch 3/1000' in line:
            running.send_signal(signal.SIGTERM)
            break
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0
    assert [line for line in err.splitlines() if line.startswith(('error', 'interrupted'))] == [
        'interrupted: saved save/run/epoch-last.pth; continue with -resume auto']
    stopped = lab.loaded('run')
    assert stopped['epoch'] * BATCHES + stopped['batch'] >= 3 * BATCHES
