"""Images, training samples and evaluation pairs, checked on images whose colours tell where each pixel lies."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, save
from PIL import Image
from torch.utils.data import DataLoader

import datasets
from datasets.downsampled import Downsampled
from datasets.evaluation import Evaluation
from datasets.image_folder import ImageFolder, PairedImageFolders
from datasets.paired import Paired
from datasets.sampling import Draw, DrawSampler
from imaging import read_rgb, read_size
from utils import UserError


def position_image(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: red is the row, green the column, blue a pattern that bicubic blurs."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, (7 * y * y + 13 * x + 5 * x * y) % 256], -1).astype(np.uint8)


def bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.BICUBIC))


# reading

def test_rgb_and_grey(tmp_path):
    image = position_image(5, 7)
    assert np.array_equal(read_rgb(save(tmp_path / 'rgb.png', image)), image)
    grey = read_rgb(save(tmp_path / 'grey.png', image[..., 2]))
    assert grey.dtype == np.uint8 and np.array_equal(grey, np.stack([image[..., 2]] * 3, -1))


def test_palette(tmp_path):
    image = Image.new('P', (3, 2))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 1])
    image.putdata([0, 1, 2, 2, 1, 0])
    image.save(tmp_path / 'p.png')
    a, b, c = [10, 20, 30], [200, 100, 50], [0, 255, 1]
    assert read_rgb(tmp_path / 'p.png').tolist() == [[a, b, c], [c, b, a]]


def test_transparency_is_dropped(tmp_path):
    """The colours stay what they are, even where nothing of them shows."""
    image = position_image(4, 6)
    alpha = np.arange(24, dtype=np.uint8).reshape(4, 6, 1) * 11
    assert np.array_equal(read_rgb(save(tmp_path / 'rgba.png', np.concatenate([image, alpha], -1))), image)
    grey = read_rgb(save(tmp_path / 'la.png', np.concatenate([image[..., :1], alpha], -1)))
    assert np.array_equal(grey, np.repeat(image[..., :1], 3, 2))


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_grey_is_rounded_to_8(tmp_path, suffix):
    """v / 257: 128 / 257 = 0.498, 129 / 257 = 0.502, 385 / 257 = 1.498, 386 / 257 = 1.502, 32768 / 257 = 127.502."""
    values = np.array([[0, 128, 129, 257], [385, 386, 32767, 32768], [65406, 65407, 65534, 65535]], np.uint16)
    image = read_rgb(save(tmp_path / f'deep.{suffix}', values))
    assert image[..., 0].tolist() == [[0, 0, 1, 1], [1, 2, 127, 128], [254, 255, 255, 255]]
    assert image.shape == (3, 4, 3) and np.ptp(image, axis=2).max() == 0


UPRIGHT = {  # EXIF orientation → how the stored image becomes upright
    1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1), 8: np.rot90}


@pytest.mark.parametrize('suffix', ['png', 'tif', 'jpg'])
@pytest.mark.parametrize('orientation', UPRIGHT)
def test_exif_orientation(tmp_path, suffix, orientation):
    stored = save(tmp_path / f'stored.{suffix}', position_image(8, 12))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = save(tmp_path / f'turned.{suffix}', position_image(8, 12), exif=exif)
    expected = UPRIGHT[orientation](read_rgb(stored))
    assert np.array_equal(read_rgb(turned), expected)
    assert read_size(turned) == expected.shape[:2]


def test_read_size_of_a_plain_image(tmp_path):
    assert read_size(save(tmp_path / 'a.png', position_image(5, 9))) == (5, 9)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'bmp', 'tif', 'webp'])
def test_truncated_file(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path / f'cut.{suffix}', noise)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    assert str(path) in message(read_rgb, path)


@pytest.mark.parametrize('content', [b'', b'not an image\n' * 20, b'\x89PNG\r\n\x1a\n' + bytes(40)])
@pytest.mark.parametrize('read', [read_rgb, read_size])
def test_no_image_at_all(tmp_path, content, read):
    (tmp_path / 'text.png').write_bytes(content)
    assert f'{tmp_path / "text.png"}: not an image' in message(read, tmp_path / 'text.png')


@pytest.mark.parametrize('read', [read_rgb, read_size])
def test_missing_file(tmp_path, read):
    assert str(tmp_path / 'absent.png') in message(read, tmp_path / 'absent.png')


# data sets of images

def colours(folder: Path, **names: int) -> Path:
    """Uniform 4×6 images: name → grey level."""
    for name, grey in names.items():
        save(folder / f'{name}.png', np.full((4, 6, 3), grey, np.uint8))
    return folder


def levels(dataset) -> list[int]:
    """The grey levels that a data set of uniform images gives, in its order."""
    return [int(dataset[index][0, 0, 0]) for index in range(len(dataset))]


def test_folder_is_sorted_and_holds_only_images(tmp_path):
    colours(tmp_path, b=2, c=3, a=1)
    save(tmp_path / 'd.PNG', np.full((4, 6, 3), 4, np.uint8))
    save(tmp_path / '.hidden.png', np.full((4, 6, 3), 9, np.uint8))
    (tmp_path / 'aa.txt').write_text('notes')
    (tmp_path / 'sub').mkdir()
    dataset = ImageFolder(data_root='/nowhere', root_path=str(tmp_path))  # an absolute path stays
    assert levels(dataset) == [1, 2, 3, 4] and dataset.size(3) == (4, 6)


def test_several_folders_first_k_and_repeat(tmp_path):
    colours(tmp_path / 'one', z=1, y=2)
    colours(tmp_path / 'two', a=3, b=4)
    roots = ['one', 'two']
    assert levels(ImageFolder(data_root=tmp_path, root_path=roots)) == [2, 1, 3, 4]
    assert levels(ImageFolder(data_root=tmp_path, root_path=roots[::-1])) == [3, 4, 2, 1]
    assert levels(ImageFolder(data_root=tmp_path, root_path=roots, first_k=3, repeat=2)) == [2, 1, 3, 2, 1, 3]
    assert levels(ImageFolder(data_root=tmp_path, root_path=roots, first_k=9)) == [2, 1, 3, 4]


def test_list_file(tmp_path):
    """The list's own order; each name in the first folder that has it."""
    colours(tmp_path / 'one', a=1, b=2)
    colours(tmp_path / 'two', b=3, c=4)
    (tmp_path / 'list.txt').write_text('c.png\n\nb.png\n  a.png \n')
    make = {'data_root': tmp_path, 'root_path': ['one', 'two'], 'list_file': 'list.txt'}
    assert levels(ImageFolder(**make)) == [4, 2, 1]
    assert levels(ImageFolder(**make, first_k=2)) == [4, 2]

    (tmp_path / 'list.txt').write_text('a.png\nd.png\n')
    text = message(ImageFolder, **make)
    assert str(tmp_path / 'list.txt') in text and "'d.png'" in text and str(tmp_path / 'two') in text
    (tmp_path / 'list.txt').write_text('\n \n')
    assert f'{tmp_path / "list.txt"}: names no image' in message(ImageFolder, **make)
    (tmp_path / 'list.txt').unlink()
    assert f'{tmp_path / "list.txt"}: no such list' in message(ImageFolder, **make)


def test_in_memory_is_the_same_and_decodes_once(tmp_path):
    for index, size in enumerate([(5, 9), (8, 4), (6, 6)]):
        save(tmp_path / f'{index}.png', position_image(*size) + np.uint8(index))
    plain = ImageFolder(data_root=tmp_path, root_path='.', repeat=2)
    cached = ImageFolder(data_root=tmp_path, root_path='.', repeat=2, cache='in_memory')
    expected = [plain[index] for index in range(6)]
    assert [plain.size(index) for index in range(6)] == [(5, 9), (8, 4), (6, 6)] * 2
    for file in tmp_path.iterdir():
        file.unlink()
    assert all(np.array_equal(cached[index], expected[index]) for index in range(6)) and len(cached) == 6
    assert [cached.size(index) for index in range(6)] == [(5, 9), (8, 4), (6, 6)] * 2
    assert str(tmp_path / '0.png') in message(plain.__getitem__, 0)


def test_size_decodes_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    path = save(tmp_path / 'cut.png', noise)
    path.write_bytes(path.read_bytes()[:1000])
    dataset = ImageFolder(data_root=tmp_path, root_path='.')
    assert dataset.size(0) == (40, 30)
    assert str(path) in message(dataset.__getitem__, 0)


def test_missing_and_empty_folders(tmp_path):
    assert f'{tmp_path / "absent"}: no such folder' in message(ImageFolder, data_root=tmp_path, root_path='absent')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'a.txt').write_text('')
    assert f'{tmp_path / "empty"}: holds no image' in message(ImageFolder, data_root=tmp_path, root_path='empty')
    colours(tmp_path / 'full', a=1)
    assert str(tmp_path / 'empty') in message(ImageFolder, data_root=tmp_path, root_path=['full', 'empty'])


@pytest.mark.parametrize('args', [{'cache': 'ram'}, {'repeat': 0}, {'first_k': 0}, {'first_k': -1}])
def test_wrong_arguments_of_a_folder(tmp_path, args):
    colours(tmp_path, a=1)
    spec = {'name': 'image-folder', 'args': {'root_path': '.', **args}}
    text = message(datasets.DATASETS.make, spec, 'd', data_root=tmp_path)
    assert text.startswith('d.args') and next(iter(args)) in text


def paired_folders(root: Path, lr_sizes, hr_sizes) -> PairedImageFolders:
    for folder, sizes in (('lr', lr_sizes), ('hr', hr_sizes)):
        for index, size in enumerate(sizes):
            save(root / folder / f'{index}.png', position_image(*size))
    return PairedImageFolders(data_root=root, root_path_1='lr', root_path_2='hr')


def test_pairs_are_cut_to_the_multiple(tmp_path):
    dataset = paired_folders(tmp_path, [(12, 15), (7, 9)], [(25, 31), (23, 28)])
    assert len(dataset) == 2 and [dataset.scale(0), dataset.scale(1)] == [2, 3]
    for index, (size, cut) in enumerate([((12, 15), (24, 30)), ((7, 9), (21, 27))]):
        lr, hr = dataset[index]
        assert np.array_equal(lr, position_image(*size)) and np.array_equal(hr, position_image(*cut))
    repeated = PairedImageFolders(data_root=tmp_path, root_path_1='lr', root_path_2='hr', repeat=2, first_k=1)
    assert len(repeated) == 2 and repeated.scale(1) == 2 and np.array_equal(repeated[1][1], position_image(24, 30))


@pytest.mark.parametrize('hr', [(24, 45), (8, 30), (34, 44)])  # two factors; smaller than LR; ten pixels left over at ×2
def test_pairs_of_no_single_factor(tmp_path, hr):
    text = message(paired_folders, tmp_path, [(12, 15)], [hr])  # at the start
    assert str(tmp_path / 'lr' / '0.png') in text and '12x15' in text and f'{hr[0]}x{hr[1]}' in text


# training samples

class Images:
    """A data set of arrays."""

    def __init__(self, *images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[:2]


class Pairs(Images):
    """(LR, HR) arrays of one scale."""

    def __init__(self, scale: int, *pairs):
        super().__init__(*pairs)
        self.scale = lambda index: scale


def downsampled(*images: np.ndarray, **settings) -> Downsampled:
    return Downsampled(dataset=Images(*images), data_root='.', **settings)


def draws(wrapper, count: int, scale: float, index: int = 0) -> list[dict]:
    return [wrapper[Draw(index, scale, (0, 0, number))] for number in range(count)]


def turn(image: np.ndarray, variant: int) -> np.ndarray:
    """One of the eight ways that a square can lie: 0 to 3 quarter turns, of the image or of its mirror image."""
    return np.rot90(np.fliplr(image) if variant >= 4 else image, variant % 4)


def queried(sample: dict) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows, columns (of the HR crop) and side, from the coordinates alone: each must be exactly a pixel's centre."""
    side = round(2 / float(sample['cell'][0]))
    assert sample['cell'].tolist() == [2 / side, 2 / side]
    coord = sample['coord'].numpy()
    assert coord.dtype == np.float64
    pixels = np.rint(((coord + 1) * side - 1) / 2)
    assert np.abs(coord - (-1 + (2 * pixels + 1) / side)).max() < 1e-15
    rows, columns = pixels.T.astype(int)
    assert min(rows.min(), columns.min()) >= 0 and max(rows.max(), columns.max()) < side
    return rows, columns, side


def locate(sample: dict, image: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, side, variant) of the HR crop, the one place where every queried colour is the image's."""
    rows, columns, side = queried(sample)
    colour = np.rint(sample['gt'].numpy() * 255).astype(int)
    assert np.array_equal(sample['gt'].numpy(), (colour / np.float32(255)).astype(np.float32))
    assert np.array_equal(image[colour[:, 0], colour[:, 1]], colour)  # a pixel of the image, not a mixture of some
    found = []
    for variant in range(8):
        origin = turn(np.stack(np.mgrid[:side, :side], -1), variant)[rows, columns]
        corners = np.unique(colour[:, :2] - origin, axis=0)
        if len(corners) == 1:
            found.append((*map(int, corners[0]), side, variant))
    assert len(found) == 1
    return found[0]


def image_of(tensor: torch.Tensor) -> np.ndarray:
    """(3, h, w) float in [0, 1], exact 8-bit levels → (h, w, 3) uint8."""
    assert tensor.dtype == torch.float32
    return np.rint(tensor.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize('scale', [1.0, 1.37, 2.5, 4.0])
def test_sample_is_a_crop_its_bicubic_and_its_pixels(scale):
    """Side round(inp·s), LR by Pillow from that very crop, colours of the pixels that the coordinates name."""
    image = position_image(40, 52)
    wrapper = downsampled(image, inp_size=8, sample_q=40)
    variants = set()
    for sample in draws(wrapper, 60, scale):
        top, left, side, variant = locate(sample, image)
        assert side == {1.0: 8, 1.37: 11, 2.5: 20, 4.0: 32}[scale]
        crop = image[top:top + side, left:left + side]
        assert crop.shape == (side, side, 3)
        assert np.array_equal(image_of(sample['inp']), turn(bicubic(crop, 8, 8), variant))
        rows, columns, _ = queried(sample)
        assert len(set(zip(rows, columns))) == len(rows) == 40  # without replacement
        assert sample['scale'] == scale and sample['lowered'] is False
        variants.add(variant)
    assert variants == set(range(8))


@pytest.mark.parametrize('scale', [1.0, 2.3, 4.0])
def test_the_order_of_a_samples_random_numbers(scale):
    """Top, left, three flips, queries: one generator, in this order. Another order would change every resumed run."""
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    wrapper = downsampled(image, inp_size=12, sample_q=100)
    side = {1.0: 12, 2.3: 28, 4.0: 48}[scale]
    for number, sample in enumerate(draws(wrapper, 16, scale)):
        rng = np.random.default_rng((0, 0, number))
        top, left = rng.integers(50 - side + 1), rng.integers(61 - side + 1)
        hr = image[top:top + side, left:left + side]
        lr = bicubic(hr, 12, 12)
        up_down, left_right, transposed = rng.random(3) < 0.5
        if up_down:
            lr, hr = np.flipud(lr), np.flipud(hr)
        if left_right:
            lr, hr = np.fliplr(lr), np.fliplr(hr)
        if transposed:
            lr, hr = np.transpose(lr, (1, 0, 2)), np.transpose(hr, (1, 0, 2))
        pixels = rng.choice(side * side, 100, replace=False).tolist()
        assert np.array_equal(image_of(sample['inp']), lr)
        centres = [(2 * pixel + 1) / side - 1 for pixel in range(side)]
        assert sample['coord'].tolist() == [[centres[p // side], centres[p % side]] for p in pixels]
        assert sample['gt'].tolist() == [(hr[p // side, p % side] / np.float32(255)).tolist() for p in pixels]


def test_crops_reach_every_edge_and_queries_every_pixel():
    image = position_image(20, 24)
    wrapper = downsampled(image, inp_size=4, sample_q=16, augment=False)
    corners, pixels = set(), set()
    for sample in draws(wrapper, 250, 4.0):
        top, left, _, variant = locate(sample, image)
        assert variant == 0  # not augmented
        corners.add((top, left))
        rows, columns, _ = queried(sample)
        pixels |= set(zip(rows, columns))
    assert {top for top, _ in corners} == set(range(5)) and {left for _, left in corners} == set(range(9))
    assert len(pixels) == 16 * 16


def test_all_pixels_at_scale_one():
    """sample_q = inp_size² asks for every pixel of the smallest crop exactly once."""
    rows, columns, side = queried(draws(downsampled(position_image(9, 9), inp_size=6, sample_q=36), 1, 1.0)[0])
    assert side == 6 and sorted(zip(rows, columns)) == [(y, x) for y in range(6) for x in range(6)]


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_a_sample_follows_from_its_draw():
    wrapper = downsampled(position_image(30, 30), position_image(31, 29), inp_size=8, sample_q=20)
    draw = Draw(1, 2.2, (5, 0, 3, 1))
    assert same(wrapper[draw], wrapper[draw])
    for other in ((4, 0, 3, 1), (5, 1, 3, 1), (5, 0, 4, 1), (5, 0, 3, 2)):
        assert not same(wrapper[draw], wrapper[replace(draw, seed=other)])


def test_one_scale_per_batch_or_per_sample():
    images = [position_image(64, 64)] * 5
    for per, distinct in (('batch', 1), ('sample', 5)):
        wrapper = downsampled(*images, inp_size=8, sample_q=4, scale_min=1.5, scale_max=4, scale_per=per)
        batches = [wrapper.draw_scales(list(range(5)), np.random.default_rng(seed)) for seed in range(200)]
        assert {len({scale for scale, _ in batch}) for batch in batches} == {distinct}
        scales = np.array([scale for batch in batches for scale, _ in batch])
        assert 1.5 <= scales.min() < 1.6 and 3.9 < scales.max() <= 4 and abs(scales.mean() - 2.75) < 0.15
        assert abs(np.mean(scales < 2.125) - 0.25) < 0.1  # uniform: a quarter of them in a quarter of the range
        assert not any(lowered for batch in batches for _, lowered in batch)


def test_a_scale_is_lowered_to_the_smallest_image():
    images = [position_image(40, 44), position_image(12, 50), position_image(50, 18)]
    rng = np.random.default_rng(0)
    wrapper = downsampled(*images, inp_size=8, sample_q=4, scale_min=4, scale_max=4)
    assert wrapper.draw_scales([0, 2, 1], rng) == [(1.5, True)] * 3  # 12 / 8
    assert wrapper.draw_scales([2, 0], rng) == [(2.25, True)] * 2    # 18 / 8
    assert wrapper.draw_scales([0, 0], rng) == [(4, False)] * 2
    fitting = downsampled(*images, inp_size=8, sample_q=4, scale_min=1.5, scale_max=1.5)
    assert fitting.draw_scales([0, 1], rng) == [(1.5, False)] * 2    # just fits
    each = downsampled(*images, inp_size=8, sample_q=4, scale_min=4, scale_max=4, scale_per='sample')
    assert each.draw_scales([0, 1, 2], rng) == [(4, False), (1.5, True), (2.25, True)]

    scale, lowered = wrapper.draw_scales([1], rng)[0]
    sample = wrapper[Draw(1, scale, (0,), lowered)]
    assert locate(sample, images[1])[2] == 12 and sample['lowered'] is True and sample['scale'] == 1.5


def test_crops_fit_exactly_at_every_limit():
    """A lowered scale gives back the image's own side, whatever the rounding of side / inp_size."""
    for side in range(7, 60):
        wrapper = downsampled(np.zeros((side, 70, 3), np.uint8), inp_size=7, sample_q=4, scale_min=12, scale_max=12)
        scale, lowered = wrapper.draw_scales([0], np.random.default_rng(0))[0]
        assert lowered and queried(wrapper[Draw(0, scale, (0,))])[2] == side


def test_images_below_inp_size_are_mirrored():
    image = position_image(5, 20)
    wrapper = downsampled(image, inp_size=8, sample_q=64, scale_min=2, scale_max=2, augment=False)
    assert wrapper.draw_scales([0], np.random.default_rng(0)) == [(1.0, True)]
    mirrored = image[[0, 1, 2, 3, 4, 4, 3, 2]]
    for sample in draws(wrapper, 20, 1.0):
        rows, columns, side = queried(sample)
        crop = np.zeros((8, 8, 3), np.uint8)
        crop[rows, columns] = np.rint(sample['gt'].numpy() * 255)
        left = int(crop[0, 0, 1])
        assert side == 8 and np.array_equal(crop, mirrored[:, left:left + 8])
        assert np.array_equal(image_of(sample['inp']), crop)


def test_crops_of_shrunk_images():
    """HR is some larger crop, shrunk by Pillow's bicubic; LR is that of HR. What fits the image limits how much larger."""
    image = np.random.default_rng(0).integers(0, 256, (14, 20, 3), np.uint8)
    crops = {(extent, top, left): bicubic(image[top:top + extent, left:left + extent], 8, 8) for extent in range(1, 15)
             for top in range(15 - extent) for left in range(21 - extent)}
    wrapper = downsampled(image, inp_size=4, sample_q=16, augment=False, rescale_min=0.5)
    found = []
    for sample in draws(wrapper, 100, 2.0):
        rows, columns, side = queried(sample)
        colours = np.rint(sample['gt'].numpy() * 255)
        where = [place for place, hr in crops.items() if np.array_equal(hr[rows, columns], colours)]
        assert side == 8 and len(where) == 1
        assert np.array_equal(image_of(sample['inp']), bicubic(crops[where[0]], 4, 4))
        found += where
    extents, tops, lefts = map(set, zip(*found))
    assert extents == set(range(8, 15))  # of 8 / U(0.5, 1), up to the 14 rows that there are
    assert tops == set(range(7)) and max(lefts) >= 10


@pytest.mark.parametrize(('args', 'expected'), [
    ({'scale_min': 0.5}, '0.5 and 4'), ({'scale_min': 3, 'scale_max': 2}, '3 and 2'), ({'scale_max': float('inf')}, 'inf'),
    ({'rescale_min': 0}, 'got 0'), ({'rescale_min': 1.5}, 'got 1.5'),
    ({'scale_max': float('nan')}, 'nan'), ({'scale_per': 'epoch'}, "'epoch'"), ({'sample_q': 0}, 'got 0'),
    ({'inp_size': 4, 'sample_q': 17}, '16'), ({'inp_size': 0}, 'inp_size')])
def test_wrong_arguments_of_downsampled(args, expected):
    spec = {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 4, **args}}
    text = message(datasets.WRAPPERS.make, spec, 'w', dataset=Images(), data_root='.')
    assert text.startswith('w.args') and expected in text


def pair(height: int, width: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    return position_image(height, width), position_image(height * scale, width * scale)


def test_paired_samples_show_one_region():
    """HR region = LR region × s, with the same flips and rotations."""
    lr, hr = pair(12, 15, 3)
    wrapper = Paired(dataset=Pairs(3, (lr, hr)), data_root='.', inp_size=8)
    assert wrapper.draw_scales([0, 0], np.random.default_rng(0)) == [(3.0, False)] * 2
    variants, corners = set(), set()
    for sample in draws(wrapper, 120, 3.0):
        top, left, side, variant = locate(sample, hr)
        assert side == 24 and top % 3 == left % 3 == 0
        top, left = top // 3, left // 3
        assert np.array_equal(image_of(sample['inp']), turn(lr[top:top + 8, left:left + 8], variant))
        rows, columns, _ = queried(sample)
        assert len(set(zip(rows, columns))) == len(rows) == 24 * 24  # all of them
        variants.add(variant)
        corners.add((top, left))
    assert variants == set(range(8))
    assert {top for top, _ in corners} == set(range(5)) and {left for _, left in corners} == set(range(8))


def test_paired_samples_of_some_queries():
    lr, hr = pair(9, 9, 2)
    sample = draws(Paired(dataset=Pairs(2, (lr, hr)), data_root='.', inp_size=6, sample_q=30, augment=False), 1, 2.0)[0]
    top, left, side, variant = locate(sample, hr)
    rows, columns, _ = queried(sample)
    assert (side, variant) == (12, 0) and len(set(zip(rows, columns))) == 30
    assert np.array_equal(image_of(sample['inp']), lr[top // 2:top // 2 + 6, left // 2:left // 2 + 6])


def test_paired_images_below_inp_size_are_mirrored_alike():
    lr, hr = pair(5, 9, 2)
    wrapper = Paired(dataset=Pairs(2, (lr, hr)), data_root='.', inp_size=8, augment=False)
    for sample in draws(wrapper, 10, 2.0):
        crop = np.rint(sample['gt'].numpy() * 255).astype(np.uint8).reshape(16, 16, 3)
        left = int(crop[0, 0, 1]) // 2
        assert np.array_equal(crop, hr[[*range(10), 9, 8, 7, 6, 5, 4], 2 * left:2 * left + 16])
        assert np.array_equal(image_of(sample['inp']), lr[[0, 1, 2, 3, 4, 4, 3, 2], left:left + 8])


def test_paired_needs_pairs(tmp_path):
    colours(tmp_path, a=1)
    spec = {'dataset': {'name': 'image-folder', 'args': {'root_path': '.'}}, 'wrapper': {'name': 'sr-implicit-paired'}}
    assert message(datasets.make, spec, tmp_path, 'train_dataset').startswith('train_dataset.wrapper.args: ')


# epochs

def sampler(count: int = 10, batch_size: int = 4, epoch_batches: int | None = None, seed: int = 0) -> DrawSampler:
    wrapper = downsampled(*[np.zeros((32, 32, 3), np.uint8)] * count, inp_size=8, sample_q=4)
    return DrawSampler(wrapper, batch_size, epoch_batches, seed)


def indices(batches: list[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


def test_epoch_of_one_pass():
    epoch = list(sampler())
    assert [len(batch) for batch in epoch] == [4, 4, 2] and len(sampler()) == 3
    assert sorted(indices(epoch)) == list(range(10)) != indices(epoch)


@pytest.mark.parametrize('epoch_batches', [2, 7])
def test_epoch_of_given_length(epoch_batches):
    """Fewer or more images than there are: permutation after permutation."""
    epoch = list(sampler(epoch_batches=epoch_batches))
    assert [len(batch) for batch in epoch] == [4] * epoch_batches
    assert len(sampler(epoch_batches=epoch_batches)) == epoch_batches
    order = indices(epoch)
    passes = [order[start:start + 10] for start in range(0, len(order), 10)]
    for one in passes[:-1]:
        assert sorted(one) == list(range(10))
    assert len(set(passes[-1])) == len(passes[-1])
    assert len(set(map(tuple, passes))) == len(passes)


def test_images_are_used_equally_over_epochs():
    s = sampler(epoch_batches=5)
    used = np.zeros(10, int)
    for epoch in range(6):
        s.set_position(epoch)
        used += np.bincount(indices(list(s)), minlength=10)
    assert used.tolist() == [12] * 10  # 6 epochs of 20 draws


def test_epochs_and_seeds_differ():
    epochs = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        s = sampler(epoch_batches=5, seed=seed)
        s.set_position(epoch)
        epochs.append(list(s))
        assert list(s) == epochs[-1]  # asked twice, the same epoch again
    assert len({tuple(indices(epoch)) for epoch in epochs}) == 4
    assert len({batch[0].scale for epoch in epochs for batch in epoch}) == 20
    assert len({draw.seed for epoch in epochs for batch in epoch for draw in batch}) == 80


@pytest.mark.parametrize('epoch_batches', [None, 7])
def test_set_position_continues_an_epoch(epoch_batches):
    s = sampler(epoch_batches=epoch_batches)
    s.set_position(3)
    full = list(s)
    for done in range(len(full) + 1):
        resumed = sampler(epoch_batches=epoch_batches)
        resumed.set_position(3, done)
        assert len(resumed) == len(full) - done and list(resumed) == full[done:]


@pytest.mark.parametrize('ranks', [2, 3, 5])
def test_processes_share_the_same_batches(ranks):
    """Samples are dealt one by one. A process without a sample of a small batch gets the first one, and its share is 0."""
    whole = list(sampler(count=11, batch_size=4))                                    # batches of 4, 4 and 3
    shares = []
    for rank in range(ranks):
        wrapper = sampler(count=11, batch_size=4).dataset
        own = DrawSampler(wrapper, 4, None, 0, rank, ranks)
        shares.append((list(own), [own.share(batch) for batch in range(3)]))
        assert [own.batch_samples(batch) for batch in range(3)] == [4, 4, 3] and len(own) == 3
    for number, batch in enumerate(whole):
        for rank, (batches, counts) in enumerate(shares):
            expected = [draw for place, draw in enumerate(batch) if place % ranks == rank]
            assert counts[number] == len(expected) and batches[number] == (expected or [batch[0]])


def test_random_numbers_of_draws_and_scales_are_all_different():
    """No sample may repeat the numbers that its batch's scale came from: its crop would follow the scale."""
    s = sampler(epoch_batches=8)
    first = []
    for epoch in range(3):
        s.set_position(epoch)
        for batch in s:
            scale = (batch[0].scale - 1) / 3  # what `uniform` drew in [0, 1)
            first += [round(scale, 9)] + [round(np.random.default_rng(draw.seed).random(), 9) for draw in batch]
    assert len(set(first)) == len(first)


def test_crops_do_not_follow_the_scale():
    """Over many batches, where a crop lies in its image has nothing to do with the scale; in no place of the batch."""
    image = position_image(64, 255)
    wrapper = downsampled(*[image] * 2, inp_size=8, sample_q=12, augment=False)
    s = DrawSampler(wrapper, 2, 150, 0)
    for place in range(2):
        scales, positions = [], []
        for batch in s:
            top, left, side, _ = locate(wrapper[batch[place]], image)
            scales.append(batch[place].scale)
            positions.append((top / (64 - side), left / (255 - side)))
        for axis in zip(*positions):
            assert abs(np.corrcoef(scales, axis)[0, 1]) < 0.3


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match='empty'):
        DrawSampler(Images(), 4, None, 0)


def test_batches_do_not_depend_on_the_workers(tmp_path):
    for index in range(5):
        save(tmp_path / f'{index}.png', position_image(40, 44) + np.uint8(index))

    def batches(workers: int) -> list[dict]:
        wrapper = Downsampled(dataset=ImageFolder(data_root=tmp_path, root_path='.'), data_root='.', inp_size=8, sample_q=20)
        s = DrawSampler(wrapper, 2, 3, 0)
        s.set_position(1, 1)
        return list(DataLoader(wrapper, batch_sampler=s, num_workers=workers))

    alone, helped = batches(0), batches(2)
    assert len(alone) == len(helped) == 2 and alone[0]['inp'].shape == (2, 3, 8, 8)
    assert all(same(one, other) for one, other in zip(alone, helped))
    assert alone[0]['lowered'].tolist() == [False] * 2 and not torch.equal(alone[0]['scale'], alone[1]['scale'])


# evaluation pairs

def evaluation(root: Path, *images: np.ndarray, **settings) -> Evaluation:
    for index, image in enumerate(images):
        save(root / 'HR' / f'p{index}.png', image)
    settings = {'protocol': 'benchmark', 'scales': [2], 'lr_path': 'LR', **settings}
    return Evaluation(dataset=ImageFolder(data_root=root, root_path='HR'), data_root=root, name='S', **settings)


def own_lr(root: Path, scale: int, size: tuple[int, int], level: int = 77, index: int = 0) -> np.ndarray:
    """An LR image of the set's own, which no resizing would give."""
    image = np.full((*size, 3), level, np.uint8)
    save(root / 'LR' / f'X{scale}' / f'p{index}x{scale}.png', image)
    return image


@pytest.mark.parametrize('protocol', ['benchmark', 'div2k'])
def test_own_lr_at_the_prepared_scales_only(tmp_path, protocol):
    image = position_image(43, 38)
    for scale, size in ((2, (21, 19)), (3, (14, 12)), (4, (10, 9)), (6, (7, 6))):
        own_lr(tmp_path, scale, size)
    dataset = evaluation(tmp_path, image, protocol=protocol)
    for scale in (2, 3.0, 4):
        (name, lr, hr), = dataset.pairs(scale)
        assert dataset.source(scale) == 'LR_bicubic' and name == 'p0.png' and (lr == 77).all()
        assert np.array_equal(hr, image[:lr.shape[0] * int(scale), :lr.shape[1] * int(scale)])
    for scale in (1, 2.5, 3.9, 6):
        (_, lr, hr), = dataset.pairs(scale)
        assert dataset.source(scale) == 'pil_bicubic' and np.array_equal(lr, bicubic(hr, *lr.shape[:2]))


@pytest.mark.parametrize('protocol', ['benchmark', 'div2k'])
def test_forced_pillow_lr(tmp_path, protocol):
    own_lr(tmp_path, 2, (21, 19))
    dataset = evaluation(tmp_path, position_image(43, 38), protocol=protocol, lr='pil')
    (_, lr, hr), = dataset.pairs(2)
    assert dataset.source(2) == 'pil_bicubic'
    assert np.array_equal(hr, position_image(43, 38)[:42, :38]) and np.array_equal(lr, bicubic(hr, 21, 19))


def test_without_the_folder_of_lr_images(tmp_path):
    """DIV2K falls back on Pillow, factor by factor; a benchmark does not."""
    own_lr(tmp_path, 2, (21, 19))
    dataset = evaluation(tmp_path, position_image(43, 38), protocol='div2k')
    assert [dataset.source(scale) for scale in (2, 3, 4)] == ['LR_bicubic', 'pil_bicubic', 'pil_bicubic']
    (_, lr, hr), = dataset.pairs(3)
    assert np.array_equal(lr, bicubic(hr, 14, 12))

    dataset = evaluation(tmp_path, position_image(43, 38), protocol='benchmark')
    assert str(tmp_path / 'LR' / 'X3') in message(dataset.source, 3)
    assert str(tmp_path / 'LR' / 'X3') in message(lambda: list(dataset.pairs(3)))
    assert str(tmp_path / 'LR' / 'X4') in message(evaluation, tmp_path, scales=[2, 4])  # at the start


@pytest.mark.parametrize('protocol', ['benchmark', 'div2k'])
def test_one_lr_image_is_missing(tmp_path, protocol):
    own_lr(tmp_path, 2, (21, 19))
    dataset = evaluation(tmp_path, position_image(43, 38), position_image(43, 38), protocol=protocol)
    assert str(tmp_path / 'LR' / 'X2' / 'p1x2.png') in message(lambda: list(dataset.pairs(2)))


def test_own_lr_of_another_size(tmp_path):
    for size in ((22, 19), (21, 20), (19, 21)):
        own_lr(tmp_path, 2, size)
        text = message(lambda: list(evaluation(tmp_path, position_image(43, 38)).pairs(2)))
        assert all(part in text for part in (str(tmp_path / 'LR' / 'X2' / 'p0x2.png'), str(size), '(21, 19)'))


@pytest.mark.parametrize(('scale', 'lr_size', 'hr_size'), [
    (2.3, (18, 16), (41, 37)),  # 43 / 2.3 = 18.7, 38 / 2.3 = 16.5; 18 · 2.3 = 41.4, 16 · 2.3 = 36.8
    (2.5, (17, 15), (42, 38)),  # 17.2, 15.2; 42.5 and 37.5 are rounded to even
    (3, (14, 12), (42, 36)), (8, (5, 4), (40, 32)), (1, (43, 38), (43, 38)), (38, (1, 1), (38, 38))])
def test_hr_is_cut_from_the_top_left(tmp_path, scale, lr_size, hr_size):
    image = position_image(43, 38)
    (_, lr, hr), = evaluation(tmp_path, image, lr='pil').pairs(scale)
    assert np.array_equal(hr, image[:hr_size[0], :hr_size[1]])
    assert np.array_equal(lr, bicubic(hr, *lr_size))


@pytest.mark.parametrize(('side', 'scale', 'lr_side'), [(33, 1.1, 30), (33, 2.2, 15), (55, 1.1, 50), (55, 2.2, 25)])
def test_division_without_remainder_loses_no_row(tmp_path, side, scale, lr_side):
    """In floating point 33 / 1.1 is just below 30."""
    (_, lr, hr), = evaluation(tmp_path, position_image(side, side), lr='pil').pairs(scale)
    assert lr.shape[:2] == (lr_side, lr_side) and hr.shape[:2] == (side, side)


def test_centre_crop(tmp_path):
    """Pillow's LR whatever the set has, since that would be of the whole image."""
    own_lr(tmp_path, 2, (20, 25))
    image = position_image(40, 51)
    dataset = evaluation(tmp_path, image, crop=20)
    (_, lr, hr), = dataset.pairs(2)
    assert dataset.source(2) == 'pil_bicubic'
    assert np.array_equal(hr, image[10:30, 15:35]) and np.array_equal(lr, bicubic(hr, 10, 10))
    (_, lr, hr), = dataset.pairs(3)
    assert np.array_equal(hr, image[10:28, 15:33]) and np.array_equal(lr, bicubic(hr, 6, 6))
    (_, lr, hr), = evaluation(tmp_path, image, crop=48).pairs(2)  # higher than the image
    assert np.array_equal(hr, image[:, 1:49])


@pytest.mark.parametrize(('protocol', 'scale', 'least'), [('benchmark', 2, 6), ('benchmark', 6, 18), ('div2k', 2, 18)])
def test_too_small_an_image(tmp_path, protocol, scale, least):
    """Reported at the start: of round(floor(H / s)·s) rows the border (2, 6 and 8 pixels) must leave one."""
    kept = evaluation(tmp_path / 'a', position_image(least, 40), lr='pil', protocol=protocol, scales=[1, scale])
    assert next(kept.pairs(scale)).hr.shape[0] == least
    for size in ((least - 1, 40), (40, least - 1)):
        text = message(evaluation, tmp_path / 'b', position_image(*size), lr='pil', protocol=protocol, scales=[1, scale])
        for part in (str(tmp_path / 'b' / 'HR' / 'p0.png'), f'{size[0]}x{size[1]}', protocol, f'scale {scale}'):
            assert part in text
    text = message(evaluation, tmp_path / 'c', position_image(40, 40), protocol=protocol, scales=scale, crop=least - 1)
    assert f'{least - 1}x{least - 1}' in text


def test_evaluation_reads_grey_as_rgb_in_the_folders_order(tmp_path):
    save(tmp_path / 'HR' / 'p9.png', np.full((8, 8), 99, np.uint8))
    dataset = evaluation(tmp_path, np.full((8, 8, 3), 1, np.uint8), np.full((8, 8, 3), 2, np.uint8), lr='pil', scales=2.5)
    assert len(dataset) == 3 and dataset.scales == [2.5]
    assert [(name, hr[0, 0].tolist()) for name, _, hr in dataset.pairs(2)] == [
        ('p0.png', [1] * 3), ('p1.png', [2] * 3), ('p9.png', [99] * 3)]


@pytest.mark.parametrize(('args', 'expected'), [
    ({'protocol': 'set5'}, 'benchmark, div2k'), ({'lr': 'matlab'}, "'matlab'"), ({'scales': []}, '[]'),
    ({'scales': [2, 0.5]}, '0.5'), ({'scales': ['2']}, "'2'"), ({'scales': [float('nan')]}, 'nan'),
    ({'scales': float('inf')}, 'inf'), ({'scales': [True]}, 'True'), ({'crop': 0}, '0')])
def test_wrong_arguments_of_evaluation(args, expected):
    spec = {'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'benchmark', 'scales': [2], **args}}
    text = message(datasets.WRAPPERS.make, spec, 'w', dataset=Images(), data_root='.')
    assert text.startswith('w.args') and expected in text
