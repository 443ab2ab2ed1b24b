"""Archives for datasets.prepare: paths that lead out of them, bombs, damage, what is no archive."""
import gzip
import io
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from random import Random

from tests.hostile.case import Case
from tests.hostile.inputs.images import EPS
from tests.hostile.inputs.states import make_special
from tests.hostile.mutate import damaged
from tests.hostile.originals import set5, write_archive

PLACE = 'benchmark/Set5/HR'
PATHS = ('../pwned.png', '/pwned.png', f'{PLACE}/../../../../pwned.png', '..\\pwned.png', 'C:\\pwned.png',
         f'{PLACE}/../x.png',
         f'{PLACE}/{"n" * 300}.png', f'{PLACE}/a\nb.png', f'{PLACE}/', '', f'./{PLACE}/x.png', f'{PLACE}/a\\b.png',
         f'{PLACE}//x.png',
         f'{PLACE}/.hidden.png', f'x/{PLACE}/img_0.png', f'{PLACE}/CON.png', '../' * 50 + 'etc/pwned.png')
SPECIAL = {'a link': tarfile.SYMTYPE, 'a hard link': tarfile.LNKTYPE, 'a FIFO': tarfile.FIFOTYPE,
           'a device': tarfile.CHRTYPE, 'a folder': tarfile.DIRTYPE, 'a sparse file': tarfile.GNUTYPE_SPARSE}


def make(folder: Path, originals: Path, rng: Random) -> Case:
    (folder / 'archives').mkdir()
    (folder / 'data').mkdir()
    target = folder / 'archives/benchmark.tar'
    write = rng.choice((_damage, _damage, _add_path, _add_path, _add_special, _change_content, _change_members, _write_zip,
                        _compress, _write_bomb, _write_other, _spoil_target))
    odd = write(target, originals, rng)
    return Case(command='prepare', words=['Set5', '-data', 'data', '-archives', 'archives'], odd=odd,
                names=('benchmark.tar', 'archives', 'data/benchmark', 'Set5'), writes=('data/benchmark',),
                lines=r'data/benchmark/.*', verify=_missing_images, copies=True)


def _missing_images(folder: Path) -> str | None:
    found = len(list((folder / 'data/benchmark/Set5').rglob('*.png')))
    return None if found == 20 else f'holds {found} images, expected 20'


def _damage(target: Path, originals: Path, rng: Random) -> str:
    data, odd = damaged((originals / 'archives/benchmark.tar').read_bytes(), rng)
    target.write_bytes(data)
    return odd


def _add_path(target: Path, originals: Path, rng: Random) -> str:
    name = rng.choice(PATHS)
    write_archive(target, {**set5(), name: b'x'} if rng.random() < 0.5 else {name: b'x', **set5()})
    return f'a member called {name!r:.80}'


def _add_special(target: Path, originals: Path, rng: Random) -> str:
    odd = rng.choice(list(SPECIAL))
    write_archive(target, set5())
    with tarfile.open(target, 'a') as file:
        member = tarfile.TarInfo(f'{PLACE}/img_{rng.randrange(7)}.png')
        member.type, member.linkname = SPECIAL[odd], rng.choice(('/etc/passwd', '../../pwned', member.name, ''))
        file.addfile(member)
    return f'{odd} in the archive, to {member.linkname!r}'


def _change_content(target: Path, originals: Path, rng: Random) -> str:
    members = set5()
    name = rng.choice(list(members))
    odd, content = rng.choice((('EPS', EPS), ('nothing', b''), ('text', b'hello'), ('zeros', bytes(5000)),
                               ('damaged', damaged(members[name], rng)[0]), ('another image',
                                                                             members[rng.choice(list(members))])))
    write_archive(target, {**members, name: content})
    return f'{name} holds {odd}'


def _change_members(target: Path, originals: Path, rng: Random) -> str:
    members = set5()
    name = rng.choice(list(members))
    odd = rng.choice(('without one', 'with one more', 'with one renamed', 'of nothing', 'with 3,000 more', 'with one twice'))
    if odd == 'without one':
        del members[name]
    elif odd == 'with one more':
        members[f'{PLACE}/img_9.png'] = members[name]
    elif odd == 'with one renamed':
        members[f'{PLACE}/other.png'] = members.pop(name)
    elif odd == 'of nothing':
        members = {}
    elif odd == 'with one twice':
        members[f'other/{name}'] = members[name]
    else:
        members |= {f'{PLACE}/x{number}.png': b'x' for number in range(3000)}
    write_archive(target, members)
    return f'an archive {odd}'


def _write_zip(target: Path, originals: Path, rng: Random) -> str:
    odd = rng.choice(('whole', 'damaged', 'a path', 'a wrong checksum', 'encrypted'))
    content = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(content, 'w', method) as file:
        for name, data in {**set5(), **({rng.choice(PATHS) or 'x': b'x'} if odd == 'a path' else {})}.items():
            file.writestr(name, data)
    data = content.getvalue()
    if odd == 'damaged':
        data, odd = damaged(data, rng)
    elif odd == 'a wrong checksum':
        data = data[:14] + bytes(4) + data[18:]
    elif odd == 'encrypted':
        headers = re.compile(rb'(PK\x03\x04..|PK\x01\x02....)\0', re.DOTALL)  # up to the flag, of files and of their list
        data = headers.sub(lambda found: found[1] + b'\1', data)
    target.write_bytes(data)
    return f'a zip archive: {odd}'


def _compress(target: Path, originals: Path, rng: Random) -> str:
    mode = rng.choice(('w:gz', 'w:bz2', 'w:xz'))
    write_archive(target, set5(), mode)
    odd = 'whole'
    if rng.random() < 0.8:
        data, odd = damaged(target.read_bytes(), rng)
        target.write_bytes(data)
    return f'{mode}: {odd}'


def _write_bomb(target: Path, originals: Path, rng: Random) -> str:
    odd = rng.choice(('a member of 100 MB in 100 kB', 'a member that says 8 EB', 'a member that says 3 GB',
                      '40 MB of zeros'))
    if odd == '40 MB of zeros':
        target.write_bytes(gzip.compress(bytes(4 * 10 ** 7)))
    elif odd.startswith('a member of'):
        write_archive(target, {f'{PLACE}/img_0.png': bytes(10 ** 8), **set5()}, 'w:gz')
    else:
        member = tarfile.TarInfo(f'{PLACE}/img_0.png')
        member.size = 8 * 10 ** 18 if odd.endswith('EB') else 3 * 10 ** 9
        target.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    return odd


def _write_other(target: Path, originals: Path, rng: Random) -> str:
    odd = rng.choice(('a folder', 'a FIFO', 'a link to itself', 'no bytes'))
    make_special(target, odd)
    return f'the archive is {odd}'


def _spoil_target(target: Path, originals: Path, rng: Random) -> str:
    """The place of the images is odd."""
    shutil.copy(originals / 'archives/benchmark.tar', target)
    data = target.parent.parent / 'data'
    odd = rng.choice(('a file in the place of the set', 'a file in the place of HR', 'a left stage',
                      'an image that is a folder', 'a foreign image'))
    (data / 'benchmark').mkdir()
    if odd == 'a file in the place of the set':
        (data / 'benchmark/Set5').touch()
    else:
        (data / 'benchmark/Set5').mkdir()
        if odd == 'a file in the place of HR':
            (data / 'benchmark/Set5/HR').touch()
        elif odd == 'a left stage':
            (data / 'benchmark/Set5/.HR.unpacking').mkdir()
            (data / 'benchmark/Set5/.HR.unpacking/x.png').write_bytes(b'x')
        elif odd == 'an image that is a folder':
            (data / 'benchmark/Set5/HR/img_0.png').mkdir(parents=True)
        else:
            (data / 'benchmark/Set5/HR').mkdir()
            shutil.copy(originals / 'data/images/0.png', data / 'benchmark/Set5/HR/foreign.png')
    return odd
