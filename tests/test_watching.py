"""What a run writes while it trains: curves, images, versions, pace; and that no step waits for a GPU."""
import io
import math
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lab import BATCHES, after_step, differences, events_of, one_error_line, scalars
from PIL import Image
from tensorboard.summary.writer import record_writer
from torch.utils._python_dispatch import TorchDispatchMode

import engine.training.record
import models
from datasets.evaluation import Pair
from engine.training.figures import Crops
from engine.training.health import dead_share, watch_relus
from engine.training.record import Pace, Record, git_revision, quiet_writer_thread, triptych, versions
from engine.training.step import TrainingStep
from utils import RunError

ROOT = Path(__file__).resolve().parent.parent


def images_of(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """(step, pixels) of the images that a run showed."""
    events = events_of(folder)
    def pixels(image) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    return {tag: [(image.step, pixels(image)) for image in events.Images(tag)] for tag in events.Tags()['images']}


def test_curves_of_the_clock(lab):
    assert lab.train('run').status == 0
    events = events_of(lab.save('run'))
    data, step = ([(event.step, event.value) for event in events.Scalars(f'time/{name}')] for name in ('data', 'step'))
    assert [iteration for iteration, _ in data] == [iteration for iteration, _ in step] == list(range(1, 2 * BATCHES + 1))
    assert all(0 <= waited <= whole for (_, waited), (_, whole) in zip(data, step))


def test_pace(monkeypatch):
    """Batches that are waited for 1, 2 and 4 s and worked on for 10 s each, on a clock of the test."""
    now = [100.0]
    monkeypatch.setattr(engine.training.record.time, 'monotonic', lambda: now[0])

    def loader():
        for seconds in (1, 2, 4):
            now[0] += seconds
            yield seconds
    pace, laps = Pace(), []
    for number in pace.timed(loader()):
        now[0] += 10
        if number != 1:
            laps.append(pace.lap())
    assert laps == [{'time/data': 1.5, 'time/step': 11.5}, {'time/data': 4.0, 'time/step': 14.0}]
    assert pace.time_left(30) == '6m10s'                                             # 37 s for 3 batches: 370 s for 30


def test_stride_of_the_fem(lab):
    assert lab.train('run').status == 0
    curve = scalars(lab.save('run'))['train/msno.fem.stride']
    assert len(curve) == 2 * BATCHES and curve[0][1] != 1.0                          # it learns from the first step on
    assert curve[-1][1] == lab.loaded('run')['model']['sd']['msno.fem.stride'].item()


def test_network_without_a_fem(lab):
    model = {'name': 'msit', 'args': {**lab.config['model']['args'], 'fem': 'none'}}
    assert lab.train('run', model=model).status == 0
    assert not any('stride' in name for name in scalars(lab.save('run')))


def encoder_with_dead_channels(blocks: int, channels: int, dead: int) -> torch.nn.Module:
    """An encoder, of whose ReLUs the first `dead` channels each see nothing but -1, and the next nothing but 0."""
    encoder = models.ENCODERS.make({'name': 'edsr-baseline', 'args': {
        'n_resblocks': blocks, 'n_feats': channels, 'no_upsampling': True}})
    for block in encoder.body[:-1]:
        torch.nn.init.zeros_(block.body[0].weight[:dead + 1])
        block.body[0].bias.data[:] = torch.tensor([-1.0] * dead + [0.0] + [50.0] * (channels - dead - 1))
    return encoder


def test_dead_channels_are_counted():
    """A channel lives if it is above zero anywhere in one of the images; hooks go when the watch ends."""
    encoder = encoder_with_dead_channels(blocks=3, channels=8, dead=2)
    with torch.no_grad(), watch_relus(encoder) as live:
        encoder.features(torch.rand(2, 3, 5, 4))
    assert len(live) == 3 and all(channels.tolist() == [False] * 3 + [True] * 5 for channels in live.values())
    assert dead_share(live) == 3 / 8
    assert not any(module._forward_hooks for module in encoder.modules())

    relu = torch.nn.ReLU()
    with watch_relus(relu) as live:
        for number in (1, 3):
            image = -torch.ones(1, 5, 2, 2)
            image[0, number, 1, 0] = 1e-3
            relu(image)
    assert live[relu].tolist() == [False, True, False, True, False]


def test_dead_channels_are_reported(lab):
    """From a start with 7 of 8 channels dead: a warning after every validation, and a curve. Not so with 1 of 8."""
    for dead, warned in ((6, True), (0, False)):
        name = f'run{dead}'
        assert lab.train(name, epoch_max=1).status == 0
        checkpoint = lab.loaded(name)
        encoder = encoder_with_dead_channels(blocks=1, channels=8, dead=dead)
        checkpoint['model']['sd'].update({f'encoder.{key}': value for key, value in encoder.state_dict().items()})
        torch.save(checkpoint, 'start.pth')
        done = lab.train(f'{name}b', '-pretrain', 'start.pth', epoch_max=1)
        curve = scalars(lab.save(f'{name}b'))['val/dead_channels']
        assert [value for _, value in curve] == [pytest.approx((dead + 1) / 8)] * 2
        assert done.out.count("warning: 88% of the encoder's ReLU channels are zero") == 2 * warned


@pytest.mark.slow
def test_images_of_the_validation(lab):
    """The first three at the largest scale, after 1, 2, 4, … validations and the last: LR | SR | HR, here of 24² pixels."""
    lab.config['val_dataset']['dataset']['args']['first_k'] = 4
    assert lab.train('run', epoch_max=6, epoch_save=None).status == 0
    shown = images_of(lab.save('run'))
    assert set(shown) == {f'val/{number}.png_x3' for number in range(3)}
    for images in shown.values():
        assert [step for step, _ in images] == [BATCHES * epoch for epoch in (1, 2, 4, 6)]
        assert all(image.shape == (24, 72, 3) for _, image in images)
        right = images[0][1][:, 48:]
        assert all(np.array_equal(image[:, 48:], right) for _, image in images)
        assert not np.array_equal(images[0][1][:, 24:48], images[-1][1][:, 24:48])
    whole = np.asarray(Image.open(lab.folder / 'data/images/1.png'))                # 40 × 44, cropped to its centre
    assert np.array_equal(shown['val/1.png_x3'][0][1][:, 48:], whole[8:32, 10:34])


def test_triptych():
    """The centres of grey LR, a prediction of 0.2, and HR whose pixels hold their position; less where there is less."""
    rows, columns = np.mgrid[:10, :13]
    hr = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    pair = Pair('a.png', np.full((5, 6, 3), 90, np.uint8), hr)
    prediction = torch.full((3, 10, 13), 0.2)
    image = triptych(pair, prediction, 4)
    assert image.shape == (4, 12, 3) and image.dtype == np.uint8
    assert (image[:, :4] == 90).all() and (image[:, 4:8] == 51).all()
    assert np.array_equal(image[:, 8:], hr[3:7, 4:8])
    assert triptych(pair, prediction, 96).shape == (10, 39, 3)


@pytest.mark.slow
def test_crops_of_every_image():
    """By hand: the centres of predictions and HR, white lines of two pixels around them; all cut to the smallest."""
    pytest.importorskip('torchvision')
    crops = Crops()
    for height, width, level in ((9, 8, 0.2), (4, 6, 0.4)):
        hr = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1).repeat(3, 2)
        crops.add(Pair('a.png', hr, hr), torch.full((3, height, width), level))
    grid = crops.grid()
    assert grid.shape == (2 * (4 + 2) + 2, 2 * (6 + 2) + 2, 3) and (grid[:2] == 255).all() and (grid[:, 8:10] == 255).all()
    assert (grid[2:6, 2:8] == 51).all() and (grid[8:12, 2:8] == 102).all()
    assert grid[2:6, 10:16, 0].tolist() == [[8 * y + x for x in range(1, 7)] for y in range(2, 6)]
    assert grid[8:12, 10:16, 0].tolist() == np.arange(24).reshape(4, 6).tolist()


@pytest.mark.slow
def test_figures_of_the_validation(lab):
    """A grid with a row for every image, all scales in one chart, and the same weights as without."""
    pytest.importorskip('torchvision')
    lab.config['val_dataset']['dataset']['args']['first_k'] = 4
    assert lab.train('run', figures=True).status == 0 and lab.train('plain').status == 0
    shown = images_of(lab.save('run'))
    assert [step for step, _ in shown['val/zoom_x3']] == [3, 6]
    assert {image.shape for _, image in shown['val/zoom_x3']} == {(4 * 26 + 2, 2 * 26 + 2, 3)}
    whole = np.asarray(Image.open(lab.folder / 'data/images/1.png'))
    assert np.array_equal(shown['val/zoom_x3'][0][1][28:52, 28:52], whole[8:32, 10:34])
    layout, = events_of(lab.save('run')).Tensors('custom_scalars__config__')
    assert all(f'val/psnr_x{scale}'.encode() in layout.tensor_proto.string_val[0] for scale in (2, 3))
    assert 'val/zoom_x3' not in images_of(lab.save('plain'))
    a, b = (lab.loaded(name)['model']['sd'] for name in ('run', 'plain'))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_figures_that_cannot_be_made(lab, monkeypatch):
    done = lab.train('run', figures=True, val_dataset=None)
    assert done.status == 2 and one_error_line(done, 'figures: needs a val_dataset')
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    assert lab.train('plain', epoch_max=1).status == 0
    done = lab.train('run', figures=True)
    assert done.status == 2 and one_error_line(done, 'figures: needs torchvision: pip install torchvision')


def test_versions_and_config_are_written(lab):
    assert lab.train('run', epoch_max=1).status == 0
    log = [line[20:] for line in lab.save('run', 'log.txt').read_text().splitlines()]
    assert log[0] == f'versions: python {platform.python_version()}, torch {torch.__version__}, revision {git_revision()}'
    assert log[1].startswith('config: ')
    assert yaml.safe_load(log[1].removeprefix('config: ')) == yaml.safe_load(lab.save('run', 'config.yaml').read_text())
    texts = events_of(lab.save('run'))
    for name, line in (('versions', log[0]), ('config', log[1])):
        text = texts.Tensors(f'run/{name}/text_summary')[0].tensor_proto.string_val[0].decode()
        assert f'{name}: {text}' == line


def test_versions_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, 'cuda', '12.6')
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: f'GPU of {device}')
    assert ', CUDA 12.6, GPU of cuda:1, revision ' in versions(torch.device('cuda:1'))


def test_revision(monkeypatch, tmp_path):
    """The commit, '-dirty' with uncommitted changes; without git, or outside a clone, the run goes on all the same."""
    def git(*words):
        return subprocess.run(['git', '-C', tmp_path, '-c', 'user.name=A', '-c', 'user.email=a@b', *words], check=True,
                              capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(engine.training.record, 'ROOT', tmp_path)
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert git_revision() == 'unknown'
    git('init')
    (tmp_path / 'a').write_text('1')
    git('add', 'a')
    git('commit', '-m', 'first')
    git('tag', 'v1')
    commit = git('rev-parse', '--short=12', 'HEAD')
    assert git_revision() == commit
    (tmp_path / 'a').write_text('2')
    assert git_revision() == f'{commit}-dirty'
    monkeypatch.setenv('PATH', '')
    assert git_revision() == 'unknown'


def test_only_one_process_writes(tmp_path):
    record = Record(tmp_path, active=False)
    record.log('a')
    record.text('b', 'c')
    record.scalars({'d': 1.0}, 1)
    record.image('e', np.zeros((2, 2, 3), np.uint8), 1)
    record.flush()
    record.close()
    assert not list(tmp_path.iterdir())


# losses are checked every few iterations only, as on a GPU

@pytest.fixture
def seldom(lab):
    """Losses are checked in every third iteration of an epoch; epochs have seven."""
    lab.config['train_dataset']['epoch_batches'] = 7
    lab.monkeypatch.setattr(TrainingStep, 'checks_loss', lambda step, iteration: iteration % 3 == 0)
    return lab


def test_checking_seldom_changes_nothing(seldom):
    seldom.train('seldom')
    with after_step(seldom.monkeypatch, 9, lambda trainer: trainer.request_stop(0, None)):
        assert seldom.train('parts').status == 130
    assert seldom.train('parts', '-resume', 'auto').status == 0
    seldom.monkeypatch.undo()
    seldom.monkeypatch.chdir(seldom.folder)
    assert seldom.train('always').status == 0
    assert differences(seldom.loaded('always'), seldom.loaded('seldom')) == []
    assert differences(seldom.loaded('always'), seldom.loaded('parts')) == []


@pytest.mark.parametrize(('fem', 'ruined', 'found'), [
    ('none', 1, 3), ('none', 3, 6), ('none', 6, 7), ('paper', 1, 3), ('paper', 3, 6), ('paper', 6, 7)])
def test_loss_that_is_no_number_is_found_by_the_next_check(seldom, fem, ruined, found):
    """With and without a FEM, which reads its stride as a number; and before anything is saved."""
    seldom.config['model']['args']['fem'] = fem
    assert seldom.train('run', epoch_max=1).status == 0
    before = seldom.loaded('run')
    with after_step(seldom.monkeypatch, ruined, lambda trainer: trainer.state.model.widen.weight.data.fill_(math.nan)):
        done = seldom.train('run', '-resume', 'auto')
    assert done.status == 1 and one_error_line(done, f'the loss is nan at epoch 2, iteration {found}:')
    assert differences(seldom.loaded('run'), before) == []


class NumbersRead(TorchDispatchMode):
    """Counts how often a number is read from a tensor (item, float, bool), which on a GPU waits for it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(options or {}))


def test_a_step_waits_for_nothing(seldom):
    """But for the check of the loss. SGD, since Adam keeps its counts on the CPU."""
    trainer = seldom.trainer(clip_grad=0.1, accumulate=2, ema_decay=0.9, optimizer={'name': 'sgd', 'args': {'lr': 0.1}})
    trainer.state.model.train()
    trainer.sampler.set_position(0)
    read = []
    for sample in trainer.loader:
        with NumbersRead() as numbers:
            trainer.train_step(sample)
        read.append(numbers.count)
    assert read == [0, 0, 1, 0, 0, 1, 0]


def test_a_loss_that_is_not_checked_ruins_no_weights(seldom):
    """An update with a loss of nan leaves the weights where they were, and the next check finds it."""
    trainer = seldom.trainer(optimizer={'name': 'sgd', 'args': {'lr': 0.1}})
    trainer.state.model.train()
    hook = trainer.state.model.imnet.layers[-1].register_forward_hook(lambda module, inputs, output: output * math.nan)
    trainer.sampler.set_position(0)
    samples = iter(trainer.loader)
    before = {name: value.clone() for name, value in trainer.state.model.named_parameters()}
    assert trainer.train_step(next(samples)).loss.isnan()
    hook.remove()
    assert differences(before, dict(trainer.state.model.named_parameters())) == []
    assert trainer.train_step(next(samples)).loss.isfinite()
    with pytest.raises(RunError, match='the loss is nan at epoch 1, iteration 3'):
        trainer.train_step(next(samples))


def test_devices_other_than_the_cpu_are_checked_every_ten_iterations(lab):
    trainer = lab.trainer()
    assert [number for number in range(1, 31) if trainer.step.checks_loss(number)] == list(range(1, 31))
    trainer.state.device = torch.device('cuda')
    assert [number for number in range(1, 31) if trainer.step.checks_loss(number)] == [10, 20, 30]


# threads that fail

def test_only_the_writer_of_the_curves_fails_quietly(tmp_path, monkeypatch):
    """Its OSError, which `Record` reports; any other failure reaches the hook that was there, also afterwards."""
    seen = []

    def hook(failure):
        seen.append(str(failure.exc_value))
    monkeypatch.setattr(threading, 'excepthook', hook)

    def fails(error):
        def action(*arguments):
            raise error
        return action

    def fail_in_thread(message: str) -> None:
        thread = threading.Thread(target=fails(OSError(message)))
        thread.start()
        thread.join()
    with quiet_writer_thread():
        fail_in_thread('of another thread')
        for error, raised in ((OSError('of the disk'), RunError), (ValueError('of a bug'), ValueError)):
            monkeypatch.setattr(record_writer.RecordWriter, 'write', fails(error))
            with pytest.raises(raised, match='could not be written' if raised is RunError else 'of a bug'):
                record = Record(tmp_path)
                record.flush()
    assert threading.excepthook is hook
    fail_in_thread('afterwards')
    assert seen == ['of another thread', 'of a bug', 'afterwards']
