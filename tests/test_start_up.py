"""What commands import before they work: nothing that they do not need, since imports take longer than a small image; and
how their threads wait."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers import save

# PyTorch's compiler and what it brings; GPU kernels; metrics and encoders of others; figures; formats and films that were
# not asked for; training and its data
UNNEEDED = {'torch._dynamo', 'torch._inductor', 'sympy', 'triton', 'torchvision', 'timm', 'matplotlib', 'scipy', 'tifffile',
            'imagecodecs', 'netpbmfile', 'imageio', 'rawpy', 'av', 'starlette', 'uvicorn', 'tensorboard', 'onnx', 'datasets',
            'engine.training', 'engine.evaluation', 'figures', 'safetensors', 'pandas'}
COMMANDS = {'upscaling an image': ['-input', 'a.png', '-scale', '2', '-output', 'b.png', '-device', 'cpu',
                                   '-memory', '200M'],  # little enough to be planned
            'describing weights': ['-info', 'MSIT-S']}


def imported_by(code: str, folder: Path) -> set[str]:
    """The modules that a process has imported when it has run this code."""
    script = f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nimport json\nprint(json.dumps(sorted(sys.modules)))'
    process = subprocess.run([sys.executable, '-c', script], cwd=folder, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize('command', COMMANDS)
def test_demo_imports_nothing_that_it_does_not_need(tmp_path, command):
    save(tmp_path / 'a.png', np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    code = (f"import runpy\nsys.argv = ['demo.py', *{COMMANDS[command]!r}]\n"
            f"runpy.run_path({str(ROOT / 'demo.py')!r}, run_name='__main__')")
    found = imported_by(code, tmp_path)
    assert {'torch', 'models.decoders.msit', 'engine.upscaling'} <= found and not found & UNNEEDED
    assert (tmp_path / 'b.png').exists() == (command == 'upscaling an image')


@pytest.mark.slow
def test_making_a_network_does_not_import_the_compiler(tmp_path):
    """Of every method that needs none of timm, which imports it itself."""
    code = ("from pathlib import Path\nimport models\nfrom engine.config import TRAIN_KEYS, load_config\n"
            f"for file in sorted(Path({str(ROOT)!r}, 'configs/train').glob('*_s.yaml')):\n"
            "    models.make(load_config(file, TRAIN_KEYS)['model'])")
    found = imported_by(code, tmp_path)
    assert {'models.decoders.clit', 'models.decoders.msit'} <= found and not found & {'torch._dynamo', 'triton', 'timm'}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason="GNU's OpenMP comes with PyTorch for Linux")
@pytest.mark.parametrize('settings, turns', [({}, '1000'), ({'GOMP_SPINCOUNT': '77'}, '77'),
                                             ({'OMP_WAIT_POLICY': 'PASSIVE'}, '0')])
def test_waiting_threads_sleep_soon(settings, turns):
    """As the OpenMP that PyTorch has loaded prints it: the setting must be there before."""
    kept = {name: value for name, value in os.environ.items() if name not in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')}
    code = f'import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom common.start import guard\nguard()\nimport torch'
    process = subprocess.run([sys.executable, '-c', code], env={**kept, **settings, 'OMP_DISPLAY_ENV': 'VERBOSE'},
                             capture_output=True, text=True, timeout=300)
    assert re.search(r"GOMP_SPINCOUNT = '(\d+)'", process.stderr).group(1) == turns
