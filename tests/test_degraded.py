"""Degraded LR images against Pillow's own steps, formulas and counts; the same for any number of workers."""
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, save
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

import datasets
from datasets.degraded import Degradation, make_degradation
from datasets.downsampled import Downsampled
from datasets.evaluation import Evaluation
from datasets.image_folder import ImageFolder
from datasets.sampling import Draw, DrawSampler
from figures import Studio

NOISE = np.random.default_rng(5).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format='JPEG', quality=quality)
    return np.asarray(Image.open(file))


def resized(image: np.ndarray, side: int, kernel=Image.BICUBIC) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), kernel))


def folder(root: Path, count: int = 3) -> ImageFolder:
    for index in range(count):
        save(root / 'HR' / f'{index}.png', np.roll(NOISE, 7 * index, 0))
    return ImageFolder(data_root=root, root_path='HR', cache='in_memory')


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# what happens to an image

def test_without_keys_it_is_bicubic_and_draws_nothing():
    source = rng()
    assert np.array_equal(make_degradation(None).make_lr(NOISE, 16, 16, source, part=True), resized(NOISE, 16))
    assert make_degradation({}).of_prepared(NOISE, source) is NOISE and source.random() == rng().random()
    assert str(make_degradation(None)) == ''


def test_jpeg_of_a_whole_image_is_pillows():
    for quality in (5, 75, 100):
        made = make_degradation({'jpeg': quality})
        assert np.array_equal(made.make_lr(NOISE, 32, 32, rng()), jpeg(resized(NOISE, 32), quality))
        assert np.array_equal(made.of_prepared(NOISE, rng()), jpeg(NOISE, quality))


def test_jpeg_qualities_are_drawn_from_their_range():
    found = [make_degradation({'jpeg': [60, 62]}).of_prepared(NOISE, rng(seed)) for seed in range(40)]
    known = [[np.array_equal(image, jpeg(NOISE, quality)) for quality in (60, 61, 62)] for image in found]
    assert all(sum(row) == 1 for row in known) and min(map(sum, zip(*known))) >= 5


def test_blocks_of_a_part_begin_anywhere():
    """At quality 1 a block of luma has one grey level or nearly so: edges of blocks lie every 8 columns, from any on."""
    ramp = np.repeat(np.linspace(0, 255, 64)[None, :, None], 64, 0).repeat(3, 2).astype(np.uint8)
    made = Degradation(jpeg=1)
    starts = set()
    for seed in range(60):
        steps = np.abs(np.diff(made.make_lr(ramp, 64, 64, rng(seed), part=True)[30, :, 1].astype(int)))
        starts.add(max(range(8), key=lambda start: steps[start::8].sum()))
    assert starts == set(range(8))
    whole = np.abs(np.diff(made.make_lr(ramp, 64, 64, rng())[30, :, 1].astype(int)))
    assert whole[7::8].sum() == whole.sum()


@pytest.mark.parametrize('sigma', [0.5, 1, 2])
def test_blur_has_the_standard_deviation_asked_for(sigma):
    """Of a bright point: its sum stays, and its second moment is σ²; of Pillow's approximation and 8 bits, within 8 %."""
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = Degradation(blur=sigma).of_prepared(point, rng())[..., 0].astype(float)
    grid = np.arange(41) - 20
    assert spread.sum() == pytest.approx(255, rel=0.06)
    for axis in (0, 1):
        assert (spread.sum(axis) @ grid ** 2 / spread.sum()) ** 0.5 == pytest.approx(sigma, rel=0.08)


def test_noise_has_the_standard_deviation_asked_for():
    """Of 60,000 values each: mean and deviation within four standard errors; rounding adds 1/12 to the variance."""
    grey = np.full((100, 200, 3), 128, np.uint8)
    noisy = Degradation(noise=3).of_prepared(grey, rng()).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=4 * 3 / 60_000 ** 0.5)
    assert noisy.std() == pytest.approx((9 + 1 / 12) ** 0.5, rel=4 / (2 * 60_000) ** 0.5)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 4 / 20_000 ** 0.5
    black = Degradation(noise=40).of_prepared(grey * 0, rng())
    assert (black == 0).mean() == pytest.approx(0.505, abs=0.01) and black.max() < 255  # cut off, not wrapped around


def test_kernels_are_pillows_and_all_are_drawn():
    made = Degradation(kernels=['box', 'lanczos', 'bicubic'])
    expected = [resized(NOISE, 20, kernel) for kernel in (Image.BOX, Image.LANCZOS, Image.BICUBIC)]
    found = [made.make_lr(NOISE, 20, 20, rng(seed), part=True) for seed in range(40)]
    known = [[np.array_equal(image, each) for each in expected] for image in found]
    assert all(sum(row) == 1 for row in known) and min(map(sum, zip(*known))) >= 5


def test_a_share_stays_bicubic():
    made = Degradation(jpeg=40, share=0.25)
    plain = [np.array_equal(made.make_lr(NOISE, 20, 20, rng(seed)), resized(NOISE, 20)) for seed in range(200)]
    assert np.mean(plain) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 200) ** 0.5)
    assert Degradation(jpeg=40, share=0).of_prepared(NOISE, rng()) is NOISE


def test_steps_follow_one_another():
    """Another kernel, then blur, then noise, then JPEG: without the noise each step can be made by hand."""
    lr = Image.fromarray(NOISE).resize((20, 16), Image.BOX).filter(ImageFilter.GaussianBlur(0.7))
    made = Degradation(kernels=['box'], blur=0.7, noise=0, jpeg=50)
    assert np.array_equal(made.make_lr(NOISE, 16, 20, rng()), jpeg(np.asarray(lr), 50))
    assert str(made) == 'jpeg 50, blur 0.7, noise 0, kernels box'


@pytest.mark.parametrize(('degrade', 'expected'), [
    ({'jpg': 75}, "w.args.degrade.jpg: unknown key; did you mean 'jpeg'?"), ({7: 1}, 'w.args.degrade.7: unknown key'),
    ({'jpeg': 0}, 'degrade.jpeg: expected a whole number from 1 to 100'), ({'jpeg': 75.5}, 'got 75.5'),
    ({'jpeg': [90, 60]}, 'the least and the greatest, got [90, 60]'), ({'jpeg': [60]}, 'got [60]'), ({'jpeg': True}, 'True'),
    ({'blur': -1}, 'degrade.blur: expected a number from 0 to 10'), ({'blur': '1'}, "'1'"), ({'noise': 256}, '256'),
    ({'noise': [0, [1]]}, 'noise'), ({'kernels': 'box'}, 'degrade.kernels: expected a list'), ({'kernels': []}, 'got []'),
    ({'kernels': ['bicubik']}, "did you mean 'bicubic'?"), ({'kernels': [[]]}, 'unknown kernel'),
    ({'share': 1.5}, 'degrade.share: expected a number from 0 to 1'), ({'share': None}, 'share'),
    ('jpeg', 'w.args.degrade: expected'), ({'jpeg': float('nan')}, 'w.args.degrade: expected a finite number')])
@pytest.mark.parametrize('wrapper', ['sr-implicit-downsampled', 'sr-evaluation'])
def test_wrong_degradations(tmp_path, degrade, expected, wrapper):
    args = {'name': 'S', 'protocol': 'benchmark', 'scales': [2]} if wrapper == 'sr-evaluation' else {}
    spec = {'name': wrapper, 'args': {**args, 'degrade': degrade}}
    text = message(datasets.WRAPPERS.make, spec, 'w', dataset=folder(tmp_path, 1), data_root=tmp_path)
    assert text.startswith('w.args.degrade') and expected in text


# training samples

MILD = {'jpeg': [60, 95], 'blur': [0, 1], 'noise': [0, 3], 'kernels': ['bicubic', 'box'], 'share': 0.8}


def test_samples_follow_from_their_draws_and_hr_stays_clean(tmp_path):
    images = folder(tmp_path)
    plain, degraded = (Downsampled(dataset=images, data_root='.', inp_size=16, sample_q=64, augment=False, degrade=degrade)
                       for degrade in (None, {**MILD, 'share': 1}))
    for number in range(8):
        draw = Draw(1, 2.5, (0, 0, number))
        one, other, clean = degraded[draw], degraded[draw], plain[draw]
        assert one['inp'].equal(other['inp']) and one['gt'].equal(other['gt'])
        assert not one['inp'].equal(clean['inp']) and (one['inp'] - clean['inp']).abs().mean() < 0.2
        pixels = {tuple(rgb) for rgb in (np.roll(NOISE, 7, 0).reshape(-1, 3) / np.float32(255)).tolist()}
        assert all(tuple(rgb) in pixels for rgb in one['gt'].tolist())


def test_without_degradation_samples_are_what_they_were(tmp_path):
    """`degrade: {}` and `null` draw nothing: resumed runs see the same batches."""
    images = folder(tmp_path)
    made = [Downsampled(dataset=images, data_root='.', inp_size=16, sample_q=9, **args)[Draw(0, 2.0, (0, 0, 1))]
            for args in ({}, {'degrade': None}, {'degrade': {}})]
    assert all(one['inp'].equal(made[0]['inp']) and one['coord'].equal(made[0]['coord']) for one in made)


def test_batches_do_not_depend_on_workers_or_on_where_a_run_resumes(tmp_path):
    wrapper = Downsampled(dataset=folder(tmp_path), data_root='.', inp_size=8, sample_q=20, degrade=MILD)

    def batches(workers: int, first: int) -> list:
        sampler = DrawSampler(wrapper, 2, 4, 0)
        sampler.set_position(1, first)
        return list(DataLoader(wrapper, batch_sampler=sampler, num_workers=workers))
    whole, helped = batches(0, 0), batches(1, 2)
    assert all(one['inp'].equal(other['inp']) and one['gt'].equal(other['gt']) for one, other in zip(whole[2:], helped))
    assert len(helped) == 2


# evaluation

def evaluation(root: Path, degrade: dict | None, lr_path: str | None = None) -> Evaluation:
    return Evaluation(dataset=folder(root), data_root=root, name='S', protocol='benchmark', scales=[2, 2.5], lr_path=lr_path,
                      degrade=degrade)


def test_measured_inputs_are_pillows_jpeg(tmp_path):
    """Of the set's own LR images and of those that Pillow makes; HR stays."""
    for index in range(3):
        save(tmp_path / 'LR/X2' / f'{index}x2.png', NOISE[:32, :40] // 2 + np.uint8(index))
    clean, spoilt = (evaluation(tmp_path, degrade, lr_path='LR') for degrade in (None, {'jpeg': 75}))
    for scale in (2, 2.5):
        for before, after in zip(clean.pairs(scale), spoilt.pairs(scale), strict=True):
            assert np.array_equal(after.lr, jpeg(before.lr, 75)) and np.array_equal(after.hr, before.hr)
    assert [spoilt.lr_text(scale) for scale in (2, 2.5)] == ['LR_bicubic, jpeg 75', 'pil_bicubic, jpeg 75']
    assert clean.lr_text(2) == 'LR_bicubic'


def test_figures_of_a_test_config_show_its_degradation(tmp_path):
    studio = Studio(device=torch.device('cpu'), data=tmp_path, evaluation=evaluation(tmp_path, {'jpeg': 30}))
    pair, = studio.images(['1'], [3]).pairs(3)
    assert np.array_equal(pair.lr, jpeg(np.asarray(Image.fromarray(pair.hr).resize((26, 21), Image.BICUBIC)), 30))


def test_measurements_draw_the_same_every_time(tmp_path):
    """For each image something else, whichever of them are asked for."""
    degrade = {'jpeg': [30, 90], 'noise': [1, 5], 'kernels': ['box', 'lanczos']}
    first, again = ([pair.lr for pair in evaluation(tmp_path, degrade).pairs(2)] for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    third, = evaluation(tmp_path, degrade).pairs(2, slice(2, None))
    assert np.array_equal(third.lr, first[2])


def test_kept_results_are_those_of_the_same_degradation(tmp_path):
    images = folder(tmp_path, 1)

    def fingerprint(degrade: dict | None) -> str:
        return Evaluation(dataset=images, data_root=tmp_path, name='S', protocol='benchmark', scales=2,
                          degrade=degrade).fingerprint(2)
    different = [None, {'jpeg': 75}, {'jpeg': 74}, {'jpeg': [74, 75]}, {'blur': 0.75}, {'noise': 0.75},
                 {'jpeg': 75, 'share': 0.5}, {'kernels': ['box']}, {'kernels': ['box', 'bicubic']}]
    assert len({fingerprint(degrade) for degrade in different}) == len(different)
    assert fingerprint({}) == fingerprint(None) and fingerprint({'jpeg': [75, 75]}) == fingerprint({'jpeg': 75})


def test_kernels_cannot_change_prepared_images(tmp_path):
    (tmp_path / 'LR/X2').mkdir(parents=True)
    spec = {'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'benchmark', 'scales': 2, 'lr_path': 'LR',
                                              'degrade': {'kernels': ['box']}}}
    text = message(datasets.WRAPPERS.make, spec, 'w', dataset=folder(tmp_path, 1), data_root=tmp_path)
    assert "set lr to 'pil'" in text
    spec['args']['lr'] = 'pil'
    (pair,) = datasets.WRAPPERS.make(spec, 'w', dataset=folder(tmp_path, 1), data_root=tmp_path).pairs(2)
    assert np.array_equal(pair.lr, np.asarray(Image.fromarray(NOISE).resize((40, 32), Image.BOX)))
