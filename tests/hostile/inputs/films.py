"""Films: damaged, cut short, of sound alone, with the wrong suffix, playlists and images that are called films."""
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case
from tests.hostile.films import CODECS
from tests.hostile.inputs.states import make_special
from tests.hostile.mutate import damaged

NAMES = (*CODECS, 'a.m4v', 'b c.mp4', '-a.mp4', '$(touch pwned).mkv', 'é€漢🙂.webm', 'a\nb.mp4', 'n' * 230 + '.mov',
         '%s{}.avi', 'a.png', 'a', 'a.MP4')
SUFFIXES = ('.mp4', '.mp4', '.mkv', '.webm', '.mov', '.gif', '.png', '.avi', '')
PLAYLISTS = {
    'a playlist': b'#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n',
    'a playlist of the network': b'#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:8/a.ts\n#EXT-X-ENDLIST\n',
    'a list of films': b"ffconcat version 1.0\nfile 'good.mp4'\n", 'a script': b'#!AVISYNTH\nBlankClip()\n',
    'text': b'hello\n' * 50, 'a DASH manifest': b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    'SDP': b'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n'}


def make(folder: Path, originals: Path, rng: Random) -> Case:
    name = rng.choice(NAMES)
    odd = _write(folder / name, originals, rng)
    shutil.copy(originals / 'films/a.mp4', folder / 'good.mp4')
    target = f'out{rng.choice(SUFFIXES[:5] if rng.random() < 0.8 else SUFFIXES)}'
    words = ['-input', name, '-scale', rng.choice(('1', '2', '2', '1.7', '2,1.3')), '-model', 'bicubic', '-output', target,
             '-device', 'cpu', *rng.choice(_OPTIONS)]
    if rng.random() < 0.1:
        words.insert(2, 'good.mp4')
    return Case(command='demo', words=words, odd=odd, names=(name, 'good.mp4', target, '-input', *words[8:]),
                lines=r'skipped: .*',  # where the name is none of a film, several inputs are images
                writes=(target,), verify=lambda place: None if (place / target).exists() else f'without {target}')


_OPTIONS = ((), (), (), (), ('-resume',), ('-quality', '1'), ('-quality', '100'), ('-bits', '8'), ('-bits', '16'), (
    '-background', '0,9,0'), ('-memory', '100M'), ('-format', 'webm'), ('-range', '0,1'), ('-compare',), ('-first-frame',),
    ('-ensemble',), ('-recursive',))


def _write(path: Path, originals: Path, rng: Random) -> str:
    """Writes what is called a film; → what is odd about it."""
    kind = rng.choice(('damaged', 'damaged', 'damaged', 'damaged', 'cut', 'renamed', 'sound', 'image', 'text', 'special'))
    film = rng.choice(list(CODECS))
    data = (originals / 'films' / film).read_bytes()
    if kind == 'special':
        odd = rng.choice(('a folder', 'a FIFO', 'a link to itself', 'nothing', 'no bytes'))
        make_special(path, odd)
        return odd
    if kind == 'damaged':
        data, odd = damaged(data, rng)
        odd = f'{film}, {odd}'
    elif kind == 'cut':
        share = rng.random()
        data, odd = data[:int(share * len(data))], f'{film}, cut at {share:.0%}'
    elif kind == 'renamed':
        odd = f'{film} as {path.suffix}'
    elif kind == 'sound':
        data, odd = (originals / 'films/sound.mp4').read_bytes(), 'sound alone'
    elif kind == 'image':
        data, odd = (originals / 'data/images/0.png').read_bytes(), 'an image'
    else:
        odd = rng.choice(list(PLAYLISTS))
        data = PLAYLISTS[odd]
    path.write_bytes(data)
    return odd
