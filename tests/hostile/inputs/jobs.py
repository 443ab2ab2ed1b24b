"""Jobs of many images: trees, patterns, finished and stale outputs, and every option of demo.py together."""
import os
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case

CPU = ['-device', 'cpu']
INPUTS = (
    ['in'], ['in'], ['in', '-recursive'], ['in', '-recursive'], ['in/*.png'], ['in/**/*.png'], ['in/[0-9].*', 'in/a b'],
    ['in/0.png'], ['in/0.png', 'in/1.png', 'in/0.png'], ['in', 'in/deep', '-recursive'], ['in/a b'], ['in/*'], ['**/*'],
    ['in/[]'], ['in/none*'], ['in/round', '-recursive'], ['.', '-recursive'], ['in', 'out'], ['in/link.png'],
    ['in/0.png', 'in/gone.png'])
SIZES = ([], ['-scale', '2'], ['-scale', '1.5,2'], ['-resolution', '60,60'], ['-height', '64'], ['-width', '61'],
         ['-longest', '70'], ['-shortest', '70'], ['-longest', '5'], ['-shortest', '999999'],
         ['-scale', '2', '-height', '9'], ['-width', '0'], ['-resolution', '9'])
OUTPUTS = ('out', 'out', 'out', 'out/', 'in', 'in/deep', 'out.png', 'out/a.jpg', 'round', 'in/0.png', '.', 'in/link.png')
OTHERS = (['-resume'], ['-compare'], ['-ensemble'], ['-format', 'jpg'], ['-format', 'gif'], ['-format', 'tif'],
          ['-format', 'x'], ['-quality', '1'], ['-quality', '101'], ['-bits', '16'], ['-bits', '7'],
          ['-background', '1,2,3'], ['-background', '1,2'], ['-range', '0,1'], ['-range', '1,0'], ['-range=-1,1'],
          ['-first-frame'], ['-precision', 'bfloat16'], ['-precision', 'float64'], ['-memory', '80M'], ['-memory', '1K'],
          ['-halo', '2'], ['-zoom', '1,3', '-frames', '3', '-size', '24,24'], ['-at', '0.5,0.5'], ['-at', '2,2'],
          ['-zoom', '3'], ['-info', 'weights.pth'], ['-info', 'weights.pth', 'in/0.png'], ['-info', 'absent'],
          ['-port', '1'], ['-no-kernels'])


def make(folder: Path, originals: Path, rng: Random) -> Case:
    odd = _write(folder, originals, rng)
    words = ['-input', *rng.choice(INPUTS), *rng.choice(SIZES), '-model', rng.choice(('bicubic', 'bicubic', 'weights.pth')),
             '-output', rng.choice(OUTPUTS), *CPU]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        words += rng.choice(OTHERS)
    target = words[words.index('-output') + 1]
    options = [word.partition('=')[0] for word in words if word.startswith('-')]
    return Case(command='demo', words=words, odd=odd, names=(*options, *words, 'in/', 'out'), lines=r'skipped: .*',
                writes=('out', 'out.png', 'out_compare.png', 'in/deep', '0.png', '1.png', *_beside(folder)),
                verify=lambda place: None if '-info' in words or (place / target).exists() else f'without {target}')


def _beside(folder: Path) -> list[str]:
    """New files in folders of the input that are given as the output: all that are not there yet."""
    names = [f'{stem}{end}' for stem in ('0', '1', '2', '3', 'link', '0_png', '0_jpg', 'large') for end in (
        '.png', '.jpg', '.gif', '.tif', '_compare.png')]
    places = [f'{place}{name}' for place in ('in/', '', 'in/a b/', 'a b/', 'deep/', 'deep/er/') for name in names]
    return [place for place in places if not (folder / place).exists()]


def _write(folder: Path, originals: Path, rng: Random) -> str:
    """A tree of images with something odd; → what it is."""
    images = originals / 'data/images'
    for place in ('in', 'in/deep/er', 'in/a b', 'in/.hidden'):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            shutil.copy(images / f'{number}.png', folder / place)
    shutil.copy(originals / 'weights.pth', folder)
    (folder / 'round').symlink_to('round')
    (folder / 'in/round').symlink_to('.')
    (folder / 'in/link.png').symlink_to('0.png')
    kind = rng.choice(tuple(_ODD))
    _ODD[kind](folder, images)
    return kind


def _stale(folder: Path, images: Path) -> None:
    """Outputs of another size and age, a damaged one, and a folder in the place of one."""
    (folder / 'out/0.png').parent.mkdir(exist_ok=True)
    shutil.copy(images / '2.png', folder / 'out/0.png')
    os.utime(folder / 'out/0.png', (0, 0))
    (folder / 'out/1.png').write_bytes(b'no image')


def _link_out(folder: Path, images: Path) -> None:
    """An output that is a link to an input."""
    (folder / 'out').mkdir()
    (folder / 'out/0.png').symlink_to('../in/0.png')


def _same_stem(folder: Path, images: Path) -> None:
    shutil.copy(images / '2.png', folder / 'in/0.jpg')


_ODD = {
    'nothing': lambda folder, images: None, 'stale outputs': _stale, 'an output that is a link to an input': _link_out,
    'two images of one name': _same_stem,
    'a damaged image': lambda folder, images: (folder / 'in/2.png').write_bytes((images / '2.png').read_bytes()[:200]),
    'no image': lambda folder, images: (folder / 'in/3.png').write_bytes(b'hello'),
    'a FIFO': lambda folder, images: os.mkfifo(folder / 'in/fifo.png'),
    'a file in the place of the output folder': lambda folder, images: (folder / 'out').write_bytes(b''),
    'a folder in the place of an output': lambda folder, images: (folder / 'out/0.png').mkdir(parents=True),
    'left partial files': lambda folder, images: ((folder / 'out').mkdir(), (
        folder / 'out/.partial-0-00000000-999999999-0000000000000000.png').write_bytes(b'')),
    'odd names': lambda folder, images: [shutil.copy(images / '0.png', folder / 'in' / name)
                                         for name in ('-x.png', 'é\n.png', 'n' * 230 + '.png')],
    'other files': lambda folder, images: [(folder / 'in' / name).write_bytes(b'x') for name in ('a.txt', 'b', 'c.mp4')]}
