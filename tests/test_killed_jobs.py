"""A folder that is upscaled, stopped at random moments: no half-written output, and -resume ends as if nothing had been."""
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from lab import hashes
from launch import Launcher
from PIL import Image

from utils import PARTIAL

IMAGES, MOMENTS = 16, 30
RUN = 'import demo\nrun(demo.main)\n'
LIMITED = 'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n' + RUN
KINDS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, 'full disk')


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked, file sizes limited')
def test_thirty_moments(tmp_path):
    """Signals, and a disk that takes no file beyond a size (RLIMIT_FSIZE), stop a tree of folders."""
    rng = random.Random(7)
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + 10 * number, 90, 3), dtype=np.uint8)
        file = tmp_path / 'in' / ('deep' if number % 3 else '') / f'{number}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)

    def job(output: str, code: str = RUN) -> dict:
        return {'cwd': str(tmp_path), 'code': code, 'arguments': [
            '-input', 'in', '-recursive', '-model', 'bicubic', '-scale', '2.5', '-output', output, '-resume',
            '-device', 'cpu']}

    with Launcher() as launcher:
        assert launcher.run(job('warm')) == 0
        start = time.monotonic()
        assert launcher.run(job('whole')) == 0
        seconds, whole = time.monotonic() - start, hashes(tmp_path / 'whole')
        sizes = [file.stat().st_size for file in (tmp_path / 'whole').rglob('*.png')]
        stopped = 0
        for number in range(MOMENTS):
            kind, output = KINDS[number % len(KINDS)], f'out{number}'
            if kind == 'full disk':
                status = launcher.run(job(output, LIMITED.format(size=rng.randint(min(sizes) // 2, max(sizes)))))
                assert status in (0, 1)
            else:
                process = launcher.start(job(output))
                time.sleep(rng.uniform(0, seconds))
                os.kill(process, kind)                                               # not reaped yet: still its number
                status = launcher.finish(process)
                early = not (tmp_path / output).exists()                             # maybe before the command took over
                assert early or status in ((0, -kind) if kind == signal.SIGKILL else (0, 130))
            left = hashes(tmp_path / output)
            partial = {name for name in left if Path(name).name.startswith(PARTIAL)}
            assert not partial or status == -signal.SIGKILL
            assert all(whole[name] == left[name] for name in left.keys() - partial)
            stopped += len(left) - len(partial) < IMAGES
            assert launcher.run(job(output)) == 0 and hashes(tmp_path / output) == whole
        assert stopped > MOMENTS / 3                                                 # most moments lay within the work
