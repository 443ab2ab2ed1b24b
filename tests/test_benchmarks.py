"""The benchmarks run and count right; what they measure is a matter of the machine."""
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, message, save
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from benchmarks import convolutions, curves, data, gpu, kernels, peers, plain, queries, steps, views
from common import allocator
from engine.config import TRAIN_KEYS, load_config
from figures import look
from utils import UserError

CONFIG = '''
train_dataset:
  dataset: {name: image-folder, args: {root_path: HR}}
  wrapper: {name: sr-implicit-downsampled, args: {inp_size: 8, sample_q: 16}}
  batch_size: 1
model:
  name: msit
  args:
    base_dim: 8
    heads: 2
    radius: 1
    msc_convs: 2
    mssa_projections: 2
    encoder_spec: {name: edsr-baseline, args: {n_resblocks: 1, n_feats: 4, no_upsampling: true}}
    imnet_spec: {name: mlp, args: {hidden_list: [12], act: gelu}}
optimizer: {name: adam, args: {lr: 1.e-4}}
epoch_max: 1
'''


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny.yaml'
    path.write_text(CONFIG)
    return path


@pytest.fixture
def bench(config):
    bench = queries.Bench(config, torch.device('cpu'), torch.float32)
    for parameter in (*bench.fast.parameters(), *bench.plain.parameters()):
        parameter.requires_grad_(False)
    return bench


@pytest.mark.parametrize('side, scale', [(6, 2), (5, 1.5), (4, 3.3), (7, 1)])
def test_plain_and_fast_paths_make_the_same_image(bench, side, scale):
    bench.fast.mssa.position_bias.proj.weight.mul_(20)  # a bias that counts
    bench.plain.load_state_dict(bench.fast.state_dict())
    plain_rgb, fast_rgb = (path() for path in bench.paths(side, scale).values())
    assert plain_rgb.shape == (1, 3, round(side * scale), round(side * scale))
    assert plain_rgb.std() > 0.01
    assert (plain_rgb - fast_rgb).abs().max() < 1e-5


def test_the_plain_path_uses_none_of_our_convolutions(bench):
    assert {type(layer) for layer in bench.plain.modules() if isinstance(layer, torch.nn.Conv2d)} == {torch.nn.Conv2d}
    assert {type(layer) for layer in bench.fast.msno.msc.convs} != {torch.nn.Conv2d}


def test_multiply_adds_are_counted_by_hand(bench):
    encoder = 3 * 4 * 9 + 3 * 4 * 4 * 9 + 4 * 8                         # head, one block of two, last, widening
    msno = 2 * 8 * 8 + 4 * 4 * (9 + 25) + 16 * 4 + 16 * 8 + 8 * 8       # v and s, MSC, W_ss of 2 groups, W_ds, projection
    maps = 8 * 8 + 4 * 4 * (9 + 25) + 16 * 2 + 16 * 8 + 8 * 8 * 9       # query map, its W_ss of 4 groups; values
    u = (9 * 8 + 2) * 12 + 4 * 9 * 2 * 12                               # of a pixel, and its sums for four queries
    logits = 9 * 9 * 8 + 4 * 9 * 9 * 2                                  # 3×3 query pixels by 9 keys, and what they weigh
    rest = 4 * 12 * 3
    assert bench.multiply_adds(5, 2) == 25 * (encoder + msno + maps + u + logits + rest)
    own = (9 * 8 + 2) * 12 + 9 * 9 * 8 + 9 * 9 * 2 + 12 * 3             # at ×1 a query is multiplied by W1 itself
    assert bench.multiply_adds(5, 1) == 25 * (encoder + msno + maps + own)


@pytest.mark.slow
def test_the_benchmark_writes_a_table_json_and_a_plot(config, tmp_path, monkeypatch, capsys):
    output = tmp_path / 'out' / 'queries.json'
    monkeypatch.setattr(sys, 'argv', ['queries', '-config', str(config), '-cases', '6x1.5', '-repeats', '1',
                                      '-batch', '1', '-output', str(output), '-device', 'cpu'])
    queries.main()
    results = json.loads(output.read_text())
    assert [(row['side'], row['scale']) for row in results['upscale']] == [(6, 1.5)]
    for row in results['upscale']:
        assert row['ratio'] == row['plain_seconds'] / row['fast_seconds'] > 0
        assert row['largest_difference'] < 1e-4
        assert 50 * 2 ** 20 < row['fast_peak_bytes'] < 20 * 2 ** 30  # a process with torch in it
    assert results['training_step']['ratio'] > 0
    assert output.with_suffix('.png').stat().st_size > 5000
    assert '| 6² | ×1.5 |' in capsys.readouterr().out


def test_the_benchmark_of_convolutions_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['convolutions', '-batch', '1', '-side', '6', '-channels', '2', '-sizes', '3', '15',
                                      '-repeats', '1', '-device', 'cpu'])
    convolutions.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('|')[1].strip() for line in lines if line.startswith('| ')] == ['k', '3', '15']


def test_the_plain_path_reads_the_config_of_the_paper():
    assert load_config(queries.CONFIG, TRAIN_KEYS)['model']['name'] == 'msit'
    assert plain.CHUNK == 30_000


def test_curves_of_runs(tmp_path, monkeypatch, capsys):
    """Means over the scales, by hand; a folder that is no run is one line."""
    for name, values in (('a', {2: [30, 31], 4: [20, 23]}), ('b', {2: [32.5]})):
        with SummaryWriter(tmp_path / name / 'tensorboard') as writer:
            for scale, numbers in values.items():
                for step, number in enumerate(numbers):
                    writer.add_scalar(f'val/psnr_x{scale}', number, 100 * step)
    assert curves.read_curve(tmp_path / 'a') == [(0, 25.0), (100, 27.0)] and curves.read_curve(tmp_path / 'b') == [(0, 32.5)]
    with pytest.raises(UserError, match='not the folder of a run'):
        curves.read_curve(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['curves', '-runs', str(tmp_path / 'a'), str(tmp_path / 'b'),
                                      '-output', str(tmp_path / 'out.png')])
    curves.main()
    assert (tmp_path / 'out.png').stat().st_size > 5000


@pytest.mark.parametrize(('command', 'words'), [
    *((data, words) for words in ('-size 100,300', '-size 300', '-size a,b', '-size 40000,300', '-workers -1', '-repeats 0',
                                  '-workers 1,,2', '-images 0', '-images 9999999999', '-steps -1', '-output x.txt')),
    *((queries, words) for words in ('-cases 96', '-cases x2', '-cases 96xnan', '-cases 1e9x2', '-cases 96x0.5',
                                     '-repeats 0', '-repeats ５', '-batch -1', '-batch 1e3', '-output x', '-output tests')),
    *((convolutions, words) for words in ('-batch 0', '-side 10000', '-channels -3', '-sizes 3 0', '-repeats 1.5')),
    *((peers, words) for words in ('-cases 96', '-repeats 0', '-threads 0', '-output x.png', '-program a run',
                                   "-program a '{input}'", "-program a '{input} {output} {size}'",
                                   '-program a "\'{input} {output}"')),
    *((steps, words) for words in ('-batch 0', '-repeats 0', '-precisions float8', '-output x')),
    *((kernels, words) for words in ('-batch 0', '-channels 4', '-precisions float64', '-output x')),
    (gpu, 'nowhere'), (curves, '-runs x -output tests'), (curves, '-runs x -output y.json')])
def test_options_out_of_range(monkeypatch, capsys, command, words):
    done = call(command.main, shlex.split(words), capsys, monkeypatch)
    assert done.status == 2 and done.out == '' and done.err.count('\n') == 1
    assert re.search('expected|is a folder|No closing quotation|invalid choice', done.err)


def test_the_benchmark_of_views_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['views', '-model', 'bicubic', '-scales', '4', '16', '-repeats', '1'])
    views.main()
    rows = [line.split('|')[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert rows == ['scale', '---:', '16', '4']


def test_plots_without_matplotlib_are_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(UserError, match='plots need matplotlib: pip install'):
        look.new_plots(7, 4)


def test_the_benchmark_of_data_runs(config, monkeypatch, capsys, tmp_path):
    """Both tables, and the same numbers as JSON."""
    monkeypatch.setattr(data, 'BATCHES', {'none': 1, 'mapped': 1})
    monkeypatch.setattr(data, 'BATCH_SIZE', 2)
    monkeypatch.setattr(sys, 'argv', ['data', '-images', '2', '-size', '192,200', '-workers', '0', '-repeats', '1',
                                      '-config', str(config), '-steps', '2', '-device', 'cpu',
                                      '-output', str(tmp_path / 'data.json')])
    data.main()
    results = json.loads((tmp_path / 'data.json').read_text())
    assert [row['workers'] for row in results['rows']] == [0] and results['rows'][0]['ratio'] > 0
    step, = results['steps']
    assert all(0 < step[cache]['waiting'] < step[cache]['step'] for cache in ('none', 'mapped'))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines if line.startswith('| 0')] == ['| 0 | '] * 2


COPY = 'import sys; from PIL import Image; a, b, n = sys.argv[1:]; Image.open(a).resize((int(n), int(n))).save(b)'


def program(code: str, name: str = 'theirs') -> peers.Program:
    return peers.other_program(name, shlex.join([sys.executable, '-c', code, '{input}', '{output}', '{height}']))


@pytest.mark.parametrize(('code', 'words'), [
    ("import sys; print('a\\nthe last line', file=sys.stderr); sys.exit(3)", 'ended with status 3: the last line'),
    ('import sys; print(1); sys.exit(4)', 'ended with status 4: 1'),
    ('import sys; sys.exit(5)', 'ended with status 5: it printed nothing'),
    ('pass', 'wrote no image to its {output}'),
    (COPY.replace('int(n), int(n)', 'int(n) - 2, int(n)'), 'wrote 12x10 pixels, expected 12x12')])
def test_another_program_that_fails_is_one_line(tmp_path, code, words):
    case = peers.make_case(tmp_path, 6, 2.0)
    assert message(peers.seconds, program(code), case, {}) == f'theirs, 6x6 at x2: {words}'


def test_another_program_that_is_not_there(tmp_path):
    case = peers.make_case(tmp_path, 6, 2.0)
    nothing = peers.other_program('theirs', f'{tmp_path}/nothing {{input}} {{output}}')
    assert 'theirs: cannot be started (No such file' in message(peers.seconds, nothing, case, {})


@pytest.mark.slow
def test_each_program_is_timed_with_its_start_up_in_turns(tmp_path):
    """A on the small image, A on the case, then B: as the commands themselves saw it."""
    log = tmp_path / 'log'
    note = "import sys; from PIL import Image; print('%s' + str(Image.open(sys.argv[1]).width), file=open({!r}, 'a'))"
    note = note.format(str(log))
    lines = [program(f'{note % name}; {COPY}', name) for name in 'ab']
    small, case = peers.make_case(tmp_path, 4, 2.0), peers.make_case(tmp_path, 9, 2.0)
    rows = peers.compare(lines, small, [case], 2, {})['rows']
    assert log.read_text().split() == ['a4', 'a9', 'b4', 'b9'] * 2
    assert [(row['program'], row['ratio']) for row in rows] == [
        ('a', 1.0), ('b', rows[1]['seconds'] / rows[0]['seconds'])]


def test_programs_are_called_in_turns():
    order = []
    found = peers.alternate({name: lambda name=name: order.append(name) or len(order) for name in 'abc'}, 2)
    assert order == [*'abcabc'] and found == {'a': [1, 4], 'b': [2, 5], 'c': [3, 6]}


def test_ratios_of_programs_are_quotients_of_medians(tmp_path):
    """Of pairs of start-up and whole command."""
    case = peers.make_case(tmp_path, 50, 4.0)  # 0.04 megapixels
    times = {'ours': [(1.5, 2.0), (1.0, 9.0), (0.5, 1.0)], 'theirs': [(2.0, 7.0), (3.0, 8.0), (0.5, 1.0)],
             'quick': [(0.75, 0.5), (0.5, 0.25), (0.25, 0.5)]}
    ours, theirs, quick = peers.case_rows(case, times)
    assert (ours['seconds'], ours['after_start'], ours['ratio'], ours['ratio_after_start']) == (2.0, 0.5, 1.0, 1.0)
    assert (theirs['seconds'], theirs['ratio'], theirs['after_start'], theirs['ratio_after_start']) == (7.0, 3.5, 5.0, 10.0)
    assert quick['ratio'] == 0.25 and quick['ratio_after_start'] is None  # less than its start-up: noise
    assert theirs['seconds_per_megapixel'] == 175.0
    line = peers.report({'rows': [theirs], 'psnr': {'theirs': {'4': 31.256}}}).splitlines()[-1]
    assert line == '| 50² | ×4 | theirs | 7.00 | 3.5 | 5.00 | 10 | 175.00 | 31.26 |'


def test_programs_have_equal_environments():
    """Threads, no GPU where it is not asked for, and an allocator that keeps freed memory as that of our commands does."""
    environment = peers.make_environment(3, torch.device('cpu'))
    assert environment == {'OMP_NUM_THREADS': '3', 'MKL_NUM_THREADS': '3', 'CUDA_VISIBLE_DEVICES': '', **peers.ALLOCATOR}
    assert {f'MALLOC_{name.removeprefix("M_")}_' for name in allocator.KEPT} == {*peers.ALLOCATOR}
    assert {int(peers.ALLOCATOR[f'MALLOC_{name}_']) for name in ('TOP_PAD', 'MMAP_THRESHOLD')} == {2 ** 26, 2 ** 25}


@pytest.mark.slow
def test_programs_are_compared(config, tmp_path, monkeypatch, capsys, shared):
    """A network with random weights, its plain path, scored weights and a program of two lines: JSON, table and figure."""
    image = tmp_path / 'data/benchmark/Set5/HR/baby.png'
    save(image, np.asarray(Image.open(shared / 'data/benchmark/Set5/HR/baby.png'))[:96, :96])
    words = ['-models', str(config), 'bicubic', '-cases', '12x2.5', '-repeats', '1', '-threads', '1', '-device', 'cpu',
             '-data', str(tmp_path / 'data'), '-output', str(tmp_path / 'out/peers.json'),
             '-program', 'theirs', shlex.join(program(COPY).words)]
    threads = torch.get_num_threads()
    done = call(peers.main, words, capsys, monkeypatch)
    torch.set_num_threads(threads)
    assert (done.status, done.err) == (0, '')
    results = json.loads((tmp_path / 'out/peers.json').read_text())
    names = ['tiny', 'tiny, plain', 'bicubic', 'theirs']
    assert list(results['commands']) == [row['program'] for row in results['rows']] == names
    assert all(len(row['all']) == 1 and row['ratio'] == row['seconds'] / results['rows'][0]['seconds']
               for row in results['rows'])
    assert list(results['psnr']) == ['bicubic'] and 20 < results['psnr']['bicubic']['2.5'] < 45
    assert (tmp_path / 'out/peers.md').read_text().count('| 12² | ×2.5 |') == 4
    assert (tmp_path / 'out/peers.png').stat().st_size > 5000


def test_traffic_of_operators_is_counted_by_hand():
    """A product, a view, an update in place: each tensor once an operator."""
    a, b = torch.zeros(4, 8), torch.zeros(8, 2)
    with steps.Traffic() as traffic:
        product = a @ b                                                 # 32, 16 and 8 numbers
        product = product.view(8)                                       # none
        product.add_(1)                                                 # 8, read and written
    assert traffic.bytes == 4 * (32 + 16 + 8 + 8)


def test_the_report_of_steps_is_counted_by_hand():
    row = {'precision': 'float32', 'kernels': True, 'seconds': 0.5, 'bytes': 10 ** 9, 'hours': 7.25, 'floor': 0.2,
           'peak_bytes': 3 * 2 ** 29, 'parts': {'forward': 0.125, 'backward': 0.25, 'optimiser': 0.0625}}
    failed = {'precision': 'bfloat16', 'kernels': False, 'failed': 'out of memory'}
    text = steps.report({'config': 'c', 'batch': 2, 'machine': 'm', 'bandwidth': 4e9, 'rows': [row, failed]})
    assert text.splitlines()[-2:] == ['| float32 | yes | 0.5000 | 0.1250 | 0.2500 | 0.0625 | 40% | 50% | 1.5 | 7.2 |',
                                      '| bfloat16 | no | out of memory | | | | | | | |']


def test_the_benchmark_of_steps_runs(config, tmp_path, monkeypatch, capsys):
    words = ['-config', config, '-batch', '2', '-repeats', '1', '-device', 'cpu', '-output', tmp_path / 'steps.json',
             '-set', 'ema_decay=0.9', 'train_dataset.epoch_batches=1000', 'epoch_max=36']
    monkeypatch.setattr(steps, 'COPIED', {'cpu': 1024})
    assert call(steps.main, words, capsys, monkeypatch).status == 0
    row, = json.loads((tmp_path / 'steps.json').read_text())['rows']
    assert row['hours'] == 10 * row['seconds'] > 0 and row['bytes'] > 0 and row['peak_bytes'] is None
    assert row['floor'] > 0 and row['multiply_adds'] > 2 * 3 * 64 * 3 * 4 * 9  # those of the head, forward and backward
    assert row['precision'] == 'float32' and row['kernels'] is False and min(row['parts'].values()) > 0


def test_the_benchmark_of_kernels_runs(tmp_path, monkeypatch, capsys):
    words = ['-batch', '1', '-channels', '8', '-precisions', 'float32', '-repeats', '1', '-device', 'cpu',
             '-output', tmp_path / 'kernels.json']
    monkeypatch.setattr(kernels, 'QUERIES', 4)
    done = call(kernels.main, words, capsys, monkeypatch)
    row, = json.loads((tmp_path / 'kernels.json').read_text())['rows']
    assert done.status == 0 and row['plain'] > 0 and row['kernels'] is None  # there are none on CPUs
    assert done.out.splitlines()[-1].endswith('| — | — |')


GPU_STEPS = ['tests', 'kernels', 'steps', 'upscale_float32', 'images', 'training']


def run_gpu_script(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([gpu.__file__.replace('.py', '.sh'), *words], cwd=folder, capture_output=True, text=True,
                          timeout=600, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment})


@pytest.mark.slow
def test_the_script_for_gpus_runs_to_its_end_on_a_cpu(tmp_path):
    """Every step is done, and relative folders are the caller's."""
    done = run_gpu_script(tmp_path, '-toy', '-output', 'out', '-data', 'nowhere')
    results = json.loads((tmp_path / 'out/results.json').read_text())
    report = (tmp_path / 'out/results.md').read_text()
    assert done.returncode == 0
    assert [(step['name'], step['status']) for step in results['steps']] == [(name, 0) for name in GPU_STEPS], report
    assert set(results['results']) == {'kernels', 'steps', 'upscale_float32'}
    assert any('epoch 1/1' in line for line in results['training_log'])
    assert report.count('| done |') == len(GPU_STEPS) and '| 6² | ×2 |' in report


@pytest.mark.slow
def test_a_step_of_the_script_for_gpus_that_fails_stops_no_other(tmp_path):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\ncase "$*" in *print-config*) ;; *benchmarks.gpu*) exec {sys.executable} "$@";; '
                      '*) echo broken; exit 3;; esac\n')
    python.chmod(0o755)
    done = run_gpu_script(tmp_path, '-toy', '-output', 'out', PYTHON=str(python))
    assert done.returncode == 0 and done.stdout.count('ended with status 3: broken') == len(GPU_STEPS)
    assert (tmp_path / 'out/results.md').read_text().count('failed with status 3') == len(GPU_STEPS)


@pytest.mark.parametrize('words', ['-toys', '-output', '-data'])
def test_options_of_the_script_for_gpus(tmp_path, words):
    done = run_gpu_script(tmp_path, words)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'expected' in done.stderr
