"""The store of decoded images: the same pixels as decoding each time, refreshed when files change, whole or absent."""
import errno
import json
import multiprocessing
import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import message, save
from PIL import Image
from torch.utils.data import DataLoader

import benchmarks.data
import datasets
import datasets.parallel
import datasets.store
import utils
from common.cli import run
from common.locks import locked
from common.registry import SpecError
from datasets.downsampled import Downsampled
from datasets.evaluation import Evaluation
from datasets.image_folder import ImageFolder, PairedImageFolders
from datasets.paired import Paired
from datasets.sampling import DrawSampler
from engine.config import TRAIN_KEYS, load_config
from imaging import list_images, read_rgb
from utils import RunError, UserError

ROOT = Path(__file__).resolve().parent.parent
needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system starts processes in another way')


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with six images of six sizes, HR/0.png to HR/5.png."""
    for index in range(6):
        save(tmp_path / f'HR/{index}.png', noise(40 + index, 52 - 2 * index, index))
    return tmp_path


def mapped(root: Path, **settings) -> ImageFolder:
    return ImageFolder(**{'data_root': root, 'root_path': 'HR', 'cache': 'mapped', **settings})


def entries(root: Path, folder: str = 'decoded/HR') -> dict[str, int]:
    """Name → inode of every file in the store: a file written anew has another inode."""
    return {file.name: file.stat().st_ino for file in (root / folder).iterdir()}


def images_of(root: Path) -> list[str]:
    """The images that the store has entries of, each as often as it has."""
    return sorted(name.partition('.v')[0] for name in entries(root))


def same_pixels(dataset: ImageFolder) -> bool:
    """Whether every image, and its size, is what its file gives when it is decoded now."""
    for index, file in enumerate(dataset.files):
        image = read_rgb(file)
        assert dataset.size(index) == image.shape[:2]
        assert dataset[index].dtype == np.uint8 and np.array_equal(dataset[index], image)
    return len(dataset.files) > 0


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the images that the store decodes from now on."""
    names = []

    def read(path):
        names.append(path.name)
        return read_rgb(path)
    monkeypatch.setattr(datasets.store, 'read_rgb', read)
    return names


# pixels

def test_images_of_every_kind(tmp_path):
    image = noise(9, 12)
    save(tmp_path / 'HR/rgb.png', image)
    save(tmp_path / 'HR/grey.png', image[..., 0])
    save(tmp_path / 'HR/alpha.png', np.concatenate([image, image[..., :1]], -1))
    save(tmp_path / 'HR/deep.tif', image[..., 0].astype(np.uint16) * 251)
    save(tmp_path / 'HR/rgb.jpg', image)                                           # shares its stem with another
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / 'HR/turned.jpg', image, exif=exif)
    dataset = mapped(tmp_path, repeat=2)
    assert same_pixels(dataset) and len(dataset) == 12 and np.array_equal(dataset[11], dataset[5])
    assert np.array_equal(dataset[4], image) and dataset.size(5) == dataset.size(11) == (12, 9)


def test_a_image_is_a_view_of_the_file(root):
    image = mapped(root)[2]
    assert type(image) is np.ndarray and isinstance(image.base, np.memmap) and not image.flags.writeable


def test_entries_are_plain_npy_files(root):
    mapped(root, first_k=1)
    file, = (root / 'decoded/HR').iterdir()
    assert np.array_equal(np.load(file, allow_pickle=False), noise(40, 52))


@pytest.mark.parametrize('cache', ['mapped', 'in_memory'])
def test_every_kind_of_sample_is_bit_identical(root, cache):
    for index in range(6):
        save(root / f'LR/{index}.png', noise((40 + index) // 2, (52 - 2 * index) // 2, 10 + index))

    def values(cache: str) -> list[torch.Tensor]:
        single = ImageFolder(data_root=root, root_path='HR', cache=cache)
        pairs = PairedImageFolders(data_root=root, root_path_1='LR', root_path_2='HR', cache=cache)
        wrappers = [Downsampled(dataset=single, data_root=root, inp_size=8, sample_q=20),
                    Downsampled(dataset=single, data_root=root, inp_size=48, sample_q=20, scale_per='sample'),  # mirrored
                    Paired(dataset=pairs, data_root=root, inp_size=8)]
        loaders = [DataLoader(wrapper, batch_sampler=DrawSampler(wrapper, 3, 4, 0)) for wrapper in wrappers]
        batches = [batch for loader in loaders for batch in loader]
        evaluation = Evaluation(dataset=single, data_root=root, name='S', protocol='benchmark', scales=[2.5])
        arrays = [torch.from_numpy(array.copy()) for pair in evaluation.pairs(2.5) for array in pair[1:]]
        return arrays + [batch[key] for batch in batches for key in sorted(batch)]

    plain, stored = values('none'), values(cache)
    assert len(plain) == len(stored) == 6 * 2 + 12 * 6
    assert all(a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(plain, stored))


# refreshing

def test_built_once(root, decoded):
    first = mapped(root)
    before = entries(root)
    assert sorted(decoded) == [f'{index}.png' for index in range(6)] and len(before) == 6
    decoded.clear()
    assert same_pixels(mapped(root)) and same_pixels(first)
    assert decoded == [] and entries(root) == before


def test_only_what_changed_is_decoded_again(root, decoded):
    mapped(root)
    before = entries(root)
    decoded.clear()
    save(root / 'HR/1.png', noise(33, 44, 7))                                        # changed
    status = (root / 'HR/2.png').stat()
    os.utime(root / 'HR/2.png', ns=(status.st_atime_ns, status.st_mtime_ns + 1))     # touched
    (root / 'HR/3.png').unlink()                                                     # removed
    save(root / 'HR/6.png', noise(41, 43, 8))                                        # added
    dataset = mapped(root)
    assert same_pixels(dataset) and dataset.size(1) == (33, 44) and len(dataset) == 6
    assert sorted(decoded) == ['1.png', '2.png', '6.png']
    assert images_of(root) == ['0.png', '1.png', '2.png', '4.png', '5.png', '6.png']  # nothing of the old is left
    after = entries(root)
    assert {name.partition('.v')[0] for name in before.keys() & after.keys()} == {'0.png', '4.png', '5.png'}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


def test_another_size_at_the_same_time_is_a_change(root, decoded):
    """An image may be exchanged within the clock's tick, or copied with its time."""
    mapped(root)
    time_ns = (root / 'HR/1.png').stat().st_mtime_ns
    os.utime(save(root / 'HR/1.png', noise(33, 44, 7)), ns=(time_ns, time_ns))
    decoded.clear()
    assert same_pixels(mapped(root)) and decoded == ['1.png'] and len(entries(root)) == 6


def test_removed_images_leave_the_store(root, decoded):
    """Also when there is nothing to decode."""
    mapped(root)
    decoded.clear()
    (root / 'HR/0.png').unlink()
    assert same_pixels(mapped(root)) and decoded == []
    assert images_of(root) == ['1.png', '2.png', '3.png', '4.png', '5.png']


def test_a_part_of_a_folder_leaves_the_others_entries(root, decoded):
    mapped(root)
    (root / 'list.txt').write_text('4.png\n1.png\n4.png\n')
    decoded.clear()
    assert same_pixels(mapped(root, first_k=2)) and same_pixels(mapped(root, list_file='list.txt'))
    assert same_pixels(mapped(root)) and decoded == []


def test_other_files_in_the_store_stay(root):
    for name in ('notes.txt', 'mine.npy', '0.png.npy', '.hidden.npy'):
        (root / 'decoded/HR').mkdir(parents=True, exist_ok=True)
        (root / 'decoded/HR' / name).write_bytes(b'')
        os.utime(root / 'decoded/HR' / name, (0, 0))
    mapped(root)
    assert {'notes.txt', 'mine.npy', '0.png.npy', '.hidden.npy'} < entries(root).keys() and len(entries(root)) == 10


@pytest.mark.parametrize('length', [0, 5, 100, 127, 128, 5900])
def test_an_entry_cut_short_is_made_again(root, decoded, length):
    mapped(root)
    file = next(file for file in (root / 'decoded/HR').iterdir() if file.name.startswith('4.png'))
    os.truncate(file, length)
    decoded.clear()
    assert same_pixels(mapped(root)) and decoded == ['4.png']


def test_names_that_file_systems_shorten_or_confuse(root, decoded):
    """Each has an entry of its own under a name of plain letters, is found again, and leaves with its image."""
    odd = [f'{"n" * 226}.png', f'{"漢" * 83}.png', 'A.png', 'a.png', 'A.PNG', 'é.png', 'e\u0301.png']
    if os.name == 'posix':
        odd.append(os.fsdecode(b'\xff\xfe.png'))
    for number, name in enumerate(odd):
        save(root / 'HR' / name, noise(9, 12, seed=number))
        os.utime(root / 'HR' / name, (1, 1))
    assert same_pixels(mapped(root))
    before = entries(root)
    assert len({name.lower() for name in before}) == len(before) == len(list_images(root / 'HR'))
    assert all(name.isascii() and len(name) <= 255 for name in before)
    decoded.clear()
    assert same_pixels(mapped(root)) and entries(root) == before and decoded == []
    for name in odd:
        (root / 'HR' / name).unlink()
    mapped(root)
    assert len(entries(root)) == len(before) - len(odd)


def test_a_image_listed_twice_is_decoded_once(root, decoded):
    (root / 'list.txt').write_text('4.png\n1.png\n4.png\n')
    dataset = mapped(root, list_file='list.txt')
    assert same_pixels(dataset) and sorted(decoded) == ['1.png', '4.png'] and len(dataset) == 3


# places

def test_folders_below_the_data_root_keep_their_path(root):
    save(root / 'a/b/HR/0.png', noise(8, 9))
    save(root / 'list/deep/er.png', noise(7, 9))
    (root / 'list.txt').write_text('deep/er.png\n')
    mapped(root, root_path=['HR', 'a/b/HR'])
    mapped(root, root_path=str(root / 'HR/../a/b/HR'), cache_path='other')
    assert same_pixels(mapped(root, root_path='list', list_file='list.txt'))
    found = {str(file.parent.relative_to(root)) for file in root.rglob('*.npy')}
    assert found == {'decoded/HR', 'decoded/a/b/HR', 'other/a/b/HR', 'decoded/list/deep'}


def test_folders_elsewhere_are_kept_apart(root, tmp_path_factory):
    """Equal names, sizes and times outside the data root, and one that is linked into it."""
    outside = tmp_path_factory.mktemp('outside')
    for index, place in enumerate(('one/HR/0.png', 'two/HR/0.png')):
        save(outside / place, noise(8, 9, index), compress_level=0)
        os.utime(outside / place, (10, 10))
    one, two = (mapped(root, root_path=str(outside / place)) for place in ('one/HR', 'two/HR'))
    assert same_pixels(one) and same_pixels(two) and not np.array_equal(one[0], two[0])
    folders = [folder.name for folder in (root / 'decoded').iterdir()]
    assert len(folders) == 2 and all(name.startswith('HR-') for name in folders)
    assert [file for file in outside.rglob('*') if file.is_file() and file.suffix != '.png'] == []
    (root / 'linked').symlink_to(outside / 'one')
    assert same_pixels(mapped(root, root_path='linked/HR')) and len(entries(root, 'decoded/linked/HR')) == 1


def test_a_complete_store_is_only_read(root, monkeypatch):
    """So one user's store serves others who may not write to it."""
    mapped(root)
    (root / 'HR/5.png').unlink()                                                     # its entry cannot be removed

    def refuse(*args, **settings):
        raise PermissionError(errno.EACCES, 'Permission denied')
    for name in ('unlink', 'mkdir', 'touch'):
        monkeypatch.setattr(Path, name, refuse)
    assert same_pixels(mapped(root)) and len(entries(root)) == 6


# processes

def test_it_travels_to_workers_without_its_pixels(root):
    dataset = mapped(root)
    assert dataset[0].nbytes > 6000
    sent = pickle.dumps(dataset)
    assert len(sent) < 4000 and same_pixels(pickle.loads(sent))


def batches(root: Path, cache: str, workers: int, method: str | None) -> list[dict]:
    dataset = ImageFolder(data_root=root, root_path='HR', cache=cache)
    wrapper = Downsampled(dataset=dataset, data_root=root, inp_size=8, sample_q=20)
    return list(DataLoader(wrapper, batch_sampler=DrawSampler(wrapper, 2, 4, 0), num_workers=workers,
                           multiprocessing_context=method))


@pytest.mark.parametrize(('workers', 'method'), [(0, None), pytest.param(2, 'fork', marks=needs_fork),
                                                 pytest.param(1, 'spawn', marks=pytest.mark.slow)])
def test_batches_do_not_depend_on_the_workers(root, workers, method):
    expected, found = batches(root, 'none', 0, None), batches(root, 'mapped', workers, method)
    assert len(expected) == len(found) == 4
    assert all(torch.equal(one[key], other[key]) for one, other in zip(expected, found) for key in one)


def in_processes(count: int, function) -> list[int]:
    """Exit statuses of forked processes that call function(number) at the same moment."""
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(count)

    def body(number: int) -> None:
        barrier.wait(30)
        function(number)
    processes = [context.Process(target=body, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@needs_fork
def test_processes_that_build_at_once(root):
    """All succeed, each image has one entry, and nothing temporary is left."""
    for index in range(6, 30):
        save(root / f'HR/{index}.png', noise(60, 70, index))
    assert in_processes(3, lambda number: same_pixels(mapped(root)) or os.abort()) == [0] * 3
    assert images_of(root) == sorted(f'{index}.png' for index in range(30)) and same_pixels(mapped(root))


@needs_fork
def test_a_killed_build_continues(root, decoded, monkeypatch):
    """What was finished is kept, what was not is made; the file that was being written goes, since nobody writes it."""
    replace = os.replace

    def kill(number: int) -> None:
        renamed = []

        def until_the_third(source, target):
            if len(renamed) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(replace(source, target))
        monkeypatch.setattr(utils.os, 'replace', until_the_third)
        monkeypatch.setattr(datasets.parallel, 'ThreadPoolExecutor', OneThread)
        mapped(root)
    assert in_processes(1, kill) == [-signal.SIGKILL]
    left, = (file for file in (root / 'decoded/HR').iterdir() if file.name.startswith('.'))
    assert len(entries(root)) == 3
    decoded.clear()
    assert same_pixels(mapped(root)) and len(decoded) == 4 and not left.exists() and len(entries(root)) == 6
    assert not (root / 'decoded/.lock').exists()


@needs_fork
@pytest.mark.parametrize('complete', [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_a_live_process_writes_stays(root, complete):
    """Another process builds: who misses an entry waits for it, who misses none starts at once and removes nothing."""
    (mapped(root) if complete else (root / 'decoded/HR').mkdir(parents=True))
    partial = root / 'decoded/HR/.partial-7.png.v3-1-2-3.npy'
    partial.touch()
    context = multiprocessing.get_context('fork')
    holding, opened = context.Event(), context.Event()

    def hold() -> None:
        with locked(root / 'decoded'):
            holding.set()
            opened.wait(2)
            os._exit(0 if partial.exists() and opened.is_set() == complete else 1)
    process = context.Process(target=hold)
    process.start()
    assert holding.wait(30)
    assert same_pixels(mapped(root))
    opened.set()
    process.join(60)
    assert process.exitcode == 0 and partial.exists() == complete


def swapped_sides(content: bytes) -> bytes:
    return content.replace(b'(44, 44, 3)', b'(22, 88, 3)')


@pytest.mark.parametrize('damage', [
    lambda content: content[:128] + bytes(len(content) - 128), lambda content: content[:128] + bytes(5808) + content[-4:],
    lambda content: content[:4000] + bytes([content[4000] ^ 1]) + content[4001:], swapped_sides,
    lambda content: b'\x93NUMPX' + content[6:], lambda content: content.replace(b'|u1', b'|i1'),
    lambda content: content.replace(b'(44, 44', b'(4444444'), lambda content: content[:20] + b'\xff' * 90 + content[110:],
    lambda content: bytes(len(content)), lambda content: content + b'x', lambda content: content[:-1],
    lambda content: content[:-4], lambda content: b''],
    ids=['zeroed to the end', 'zeroed pixels', 'a bit of a pixel', 'sides', 'magic', 'type', 'one side', 'header',
         'all zero', 'longer', 'shorter', 'no checksum', 'empty'])
def test_a_damaged_entry_is_made_again_and_said(root, decoded, capsys, damage):
    mapped(root)
    file = next(file for file in (root / 'decoded/HR').iterdir() if file.name.startswith('4.png'))
    whole = file.read_bytes()
    assert len(whole) == 128 + 44 * 44 * 3 + 4 and damage(whole) != whole
    file.write_bytes(damage(whole))
    decoded.clear()
    capsys.readouterr()
    assert same_pixels(mapped(root)) and decoded == ['4.png'] and file.read_bytes() == whole
    assert capsys.readouterr().out == f'{root}/decoded: 1 decoded images are damaged and are decoded again (4.png)\n'
    assert same_pixels(mapped(root)) and decoded == ['4.png'] and capsys.readouterr().out == ''


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no FIFOs here')
def test_an_entry_that_is_a_fifo_is_not_waited_for(root):
    mapped(root)
    file, = (root / 'decoded/HR').glob('4.png*')
    file.unlink()
    os.mkfifo(file)
    assert same_pixels(mapped(root)) and file.is_file()


def test_exchanged_entries_are_made_again(root, decoded):
    """Two intact files under each other's names."""
    mapped(root)
    one, two = sorted((root / 'decoded/HR').iterdir())[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    decoded.clear()
    assert same_pixels(mapped(root)) and sorted(decoded) == ['0.png', '1.png']


def test_entries_are_on_the_disk_before_they_have_their_name(root, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(datasets.store.os, 'fsync', lambda handle: events.append('sync') or sync(handle))
    monkeypatch.setattr(utils.os, 'replace', lambda *names: events.append('rename') or replace(*names))
    mapped(root, first_k=1)
    assert events == ['sync', 'rename']


class OneThread:
    """In place of a ThreadPoolExecutor: one thing after the other."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, function, items):
        return map(function, items)


def test_a_file_in_use_that_cannot_be_replaced(root, monkeypatch):
    """As on Windows: another process has just written the entry and keeps it mapped."""
    replace = os.replace

    def refuse(source, target):
        replace(source, target)
        raise PermissionError(errno.EACCES, 'Access is denied')
    monkeypatch.setattr(utils.os, 'replace', refuse)
    assert same_pixels(mapped(root)) and len(entries(root)) == 6


# failures

def spec(**args) -> dict:
    return {'dataset': {'name': 'image-folder', 'args': {'root_path': 'HR', 'cache': 'mapped', **args}},
            'wrapper': {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 16}}}


def command(capsys, function) -> tuple[int, str]:
    """(exit status, the one line on stderr) of a command."""
    with pytest.raises(SystemExit) as leaving:
        run(function)
    message = capsys.readouterr().err
    assert message.count('\n') == 1 and message.startswith('error: ')
    return leaving.value.code, message


def command_that_loads(capsys, loader: DataLoader) -> tuple[int, str]:
    """(exit status, the one line on stderr) of a command that goes through a data loader."""
    try:
        list(loader)
        error = None
    except Exception as raised:
        error = raised
        error.__traceback__ = error.__cause__ = error.__context__ = None             # they would keep the workers running

    def fail() -> None:
        raise error
    return command(capsys, fail)


@pytest.mark.parametrize('cache', ['mapped', 'in_memory'])
@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty'])
def test_a_damaged_image_is_named_at_the_start(root, capsys, cache, damage):
    whole = (root / 'HR/3.png').read_bytes()
    (root / 'HR/3.png').write_bytes({'truncated': whole[:len(whole) // 2], 'text': b'no image', 'empty': b''}[damage])
    status, message = command(capsys, lambda: datasets.make(spec(cache=cache), root))
    assert status == 2 and f'{root / "HR/3.png"}: ' in message
    assert '3.png' not in ''.join(str(file) for file in root.rglob('*.npy'))
    save(root / 'HR/3.png', noise(43, 46, 3))                                        # mended, it goes on
    assert same_pixels(mapped(root))


def test_an_unreadable_header_is_named_at_the_start_without_a_store(root):
    (root / 'HR/3.png').write_bytes(b'no image')
    assert str(root / 'HR/3.png') in message(ImageFolder, data_root=root, root_path='HR')


def test_a_dangling_link_is_named(root):
    (root / 'HR/9.png').symlink_to(root / 'nowhere.png')
    assert f'{root / "HR/9.png"}: ' in message(mapped, root)


def test_an_empty_folder_is_named(root, capsys):
    (root / 'none').mkdir()
    status, message = command(capsys, lambda: datasets.make(spec(root_path=['HR', 'none']), root))
    assert status == 2 and str(root / 'none') in message and not (root / 'decoded').exists()


def test_counts_that_differ_are_reported_before_anything_is_decoded(root):
    save(root / 'LR/0.png', noise(20, 26))
    text = message(PairedImageFolders, data_root=root, root_path_1='LR', root_path_2='HR', cache='mapped')
    assert f'{root / "LR"} and {root / "HR"}: ' in text and '5 of 6 HR images' in text and not (root / 'decoded').exists()
    assert len(PairedImageFolders(data_root=root, root_path_1='LR', root_path_2='HR', first_k=1, cache='mapped')) == 1


def test_a_disk_too_small_is_reported_at_the_start(root, capsys, monkeypatch, decoded):
    """3·(40·52 + 41·50 + 42·48 + 43·46 + 44·44 + 45·42) = 35,850 bytes are needed."""
    monkeypatch.setattr(datasets.store.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 35_849}))
    status, message = command(capsys, lambda: datasets.make(spec(), root))
    assert status == 1 and str(root / 'decoded') in message and '3.58e-05 GB' in message and decoded == []
    monkeypatch.setattr(datasets.store.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 35_850}))
    assert same_pixels(mapped(root))


def test_a_disk_that_fills_up_leaves_only_whole_entries(root, capsys):
    """The real thing: the system refuses to write beyond 6,200 bytes, and the first two of the six images need more."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_200, limits[1]))
    try:
        status, message = command(capsys, lambda: datasets.make(spec(), root))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1 and str(root / 'decoded/HR') in message and 'cache_path' in message
    assert all(file.stat().st_size == np.load(file).nbytes + 132 for file in (root / 'decoded/HR').iterdir())
    assert set(images_of(root)) <= {'2.png', '3.png', '4.png', '5.png'} and same_pixels(mapped(root))


def test_a_place_that_cannot_be_written(root, capsys):
    (root / 'decoded').write_text('a file where the folder should be')
    status, message = command(capsys, lambda: datasets.make(spec(), root))
    assert status == 1 and str(root / 'decoded') in message and 'cache_path' in message and "'cache: none'" in message
    assert same_pixels(mapped(root, cache_path='elsewhere'))


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=needs_fork)])
@pytest.mark.parametrize('damage', [os.unlink, lambda file: os.truncate(file, 200)])
def test_an_entry_lost_while_in_use_is_named(root, capsys, workers, damage):
    wrapper = datasets.make(spec(first_k=1), root)
    file, = (root / 'decoded/HR').iterdir()
    damage(file)
    loader = DataLoader(wrapper, batch_sampler=DrawSampler(wrapper, 1, 1, 0), num_workers=workers)
    status, message = command_that_loads(capsys, loader)
    assert status == 1 and str(file) in message and 'Traceback' not in message


def test_wrong_name_of_a_cache(root):
    assert "'map'" in message(datasets.make, spec(cache='map'), root)


def test_configs_on_2k_images_use_it():
    """A step of theirs would otherwise wait for the decoding of 32 of them."""
    configs = [load_config(path, TRAIN_KEYS) for folder in ('train', 'ablation')
               for path in (ROOT / 'configs' / folder).glob('*.yaml')]
    used = [config[key]['dataset']['args'] for config in configs for key in ('train_dataset', 'val_dataset')]
    large = [args for args in used if 'DIV2K' in str(args.get('root_path', args.get('root_path_2')))]
    assert len(large) >= 8 and {args.get('cache') for args in large} == {'mapped'}


def test_benchmark(root, monkeypatch, capsys):
    """It runs, and its numbers fit together; what they are is the machine's business."""
    words = ['-images', '2', '-size', '192,200', '-workers', '0', '-repeats', '2', '-steps', '0', '-output', 'out.json']
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, 'argv', ['data.py', *words])
    monkeypatch.setattr(benchmarks.data, 'BATCHES', {'none': 1, 'mapped': 2})
    benchmarks.data.main()
    results = json.loads((root / 'out.json').read_text())
    row, = results['rows']
    rates = row['samples_per_second']
    assert row['ratio'] == rates['mapped'] / rates['none'] and row['samples_per_second_per_worker'] == rates
    assert rates == {cache: sum(row['all'][cache]) / 2 for cache in ('none', 'mapped')}  # the median of two
    assert f"| 0 | {rates['none']:.1f} | {rates['mapped']:.0f} | {row['ratio']:.1f} |" in capsys.readouterr().out
    assert 1 < results['images']['png_bytes'] / (2 * 192 * 200) < 2.5                # DIV2K's images: 1.6 bytes a pixel


# what else a worker may raise

class Failing(torch.utils.data.Dataset):
    """Its only sample is an error, or (None) the end of the process."""

    def __init__(self, error: Exception | None):
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.error


@needs_fork
@pytest.mark.parametrize(('error', 'status', 'expected'), [
    (UserError('a.png: damaged'), 2, 'error: a.png: damaged\n'), (RunError('b.npy: gone'), 1, 'error: b.npy: gone\n'),
    (SpecError('model.args: wrong'), 2, 'error: model.args: wrong\n'),
    (OSError(errno.EIO, 'Input/output error', 'c.png'), 1, "error: [Errno 5] Input/output error: 'c.png'\n"),
    (MemoryError(), 1, 'error: out of memory\n'), (None, 1, None)])
def test_errors_of_workers_are_one_line(capsys, error, status, expected):
    found = command_that_loads(capsys, DataLoader(Failing(error), num_workers=1))
    assert found == (status, expected or found[1])
    assert expected or 'num_workers' in found[1]
