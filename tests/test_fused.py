"""The fused path of MSSA's queries without a GPU: its kernels through Triton's interpreter, and the choice between paths."""
import importlib
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from models.msit import fused

needs_triton = pytest.mark.skipif(fused.kernels is None, reason='needs Triton')
GPU = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device('cuda', 0))


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=1200,
                          env=os.environ | {'CUDA_VISIBLE_DEVICES': '', **environment})


@needs_triton
def test_kernels_through_the_interpreter():
    """In a process of its own: Triton decides once, when it is imported, whether kernels are compiled or interpreted."""
    done = run_python('-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/fused_checks.py', TRITON_INTERPRET='1')
    assert done.returncode == 0, done.stdout[-6000:]
    outcome = re.fullmatch(r'(\d+) passed in .*', done.stdout.splitlines()[-1])
    assert outcome and int(outcome[1]) >= 25, done.stdout[-1000:]


@needs_triton
@pytest.mark.skipif(os.environ.get('TRITON_INTERPRET') == '1', reason='interpreted kernels are not compiled')
@pytest.mark.slow
@pytest.mark.parametrize('capability, memory, dtype', [
    (90, 227, torch.bfloat16), (80, 99, torch.bfloat16), (80, 99, torch.float32)])
def test_kernels_compile_for_gpus(monkeypatch, tmp_path, capability, memory, dtype):
    """At the paper's sizes, for a GPU that need not be there, into machine code within its shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    kernels, built = fused.kernels, []

    def build(kernel, grid, settings, *arguments):
        types = {torch.float32: '*fp32', torch.bfloat16: '*bf16', torch.int64: '*i64'}
        signature, constants, options = {}, {}, {}
        for name, argument in zip(kernel.arg_names, arguments):
            signature[name] = types[argument.dtype] if isinstance(argument, torch.Tensor) else 'i32'
        for name, value in settings.items():
            if name in kernel.arg_names:
                signature[name], constants[name] = 'constexpr', value
            else:
                options[name] = value
        assert set(signature) == set(kernel.arg_names)
        source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants,
                           {(i,): [['tt.divisibility', 16]] for i, x in enumerate(arguments) if isinstance(x, torch.Tensor)})
        binary = compile(source, target=GPUTarget('cuda', capability, 32), options=options | {'enable_fp_fusion': True})
        assert len(binary.asm['cubin']) > 1000 and binary.metadata.shared <= memory * 1024
        built.append(kernel.__name__)

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(kernels, 'launch', build)
    monkeypatch.setattr(kernels, 'has_large_memory', lambda device: memory == 227)
    n, r, c, h, k, m = 73728, 93312, 256, 8, 49, 256
    query, source, weight, hidden = (torch.empty(shape, dtype=dtype, device='meta')
                                     for shape in ((n, c), (r, c), (m, k * c), (n, m)))
    rows = torch.empty(n, k, dtype=torch.int64, device='meta')
    attention = torch.empty(n, k, h, device='meta')
    kernels.query_key_products(query, source, rows, h)
    kernels.query_key_products_backward(attention, query, source, rows)
    kernels.weighted_first_layer(attention, source, rows, weight)
    kernels.inputs_backward(hidden, attention, source, rows, weight)
    kernels.weight_backward(hidden, attention, source, rows)
    assert len(built) == 5


def gpu_is(monkeypatch, capability: int) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: SimpleNamespace(major=capability))


@needs_triton
def test_kernels_are_for_cuda_gpus_with_triton(monkeypatch):
    monkeypatch.setattr(torch.version, 'hip', None)
    for capability in (8, 9, 10, 12):
        gpu_is(monkeypatch, capability)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert fused.available(SimpleNamespace(**vars(GPU) | {'dtype': dtype}))


@pytest.mark.parametrize('lacking', ['triton', 'cuda', 'capability', 'type', 'determinism'])
def test_plain_pytorch_where_kernels_cannot_run(monkeypatch, lacking):
    monkeypatch.setattr(torch.version, 'hip', 'some version' if lacking == 'cuda' else None)
    if lacking == 'triton':
        monkeypatch.setattr(fused, 'kernels', None)
    gpu_is(monkeypatch, 7 if lacking == 'capability' else 9)
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: lacking == 'determinism')
    assert fused.available(SimpleNamespace(**vars(GPU) | ({'dtype': torch.float64} if lacking == 'type' else {}))) is False


def test_plain_pytorch_on_cpus():
    assert fused.available(torch.zeros(2, 3)) is False


def test_everything_runs_without_triton(tiny_msit):
    """An import of Triton that fails, as on Windows, leaves a network that is trained by plain PyTorch."""
    done = run_python('-c', f'''
import sys
sys.modules['triton'] = None
import torch
import models
from models.msit import fused
assert fused.kernels is None
torch.manual_seed(0)
model = models.make({tiny_msit!r})
rgb = model(torch.rand(2, 3, 6, 5), torch.rand(2, 7, 2) * 2 - 1, torch.full((2, 2), 0.1))
rgb.sum().backward()
print(tuple(rgb.shape), all(p.grad is not None for p in model.parameters()))
''')
    assert (done.stdout, done.returncode) == ('(2, 7, 3) True\n', 0), done.stderr


@needs_triton
def test_triton_is_of_no_use_without_a_c_compiler(monkeypatch):
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.delitem(sys.modules, 'models.msit.kernels')
    with pytest.raises(ImportError, match='C compiler'):
        importlib.import_module('models.msit.kernels')


@needs_triton
def test_float32_is_exact_unless_tf32_is_allowed(monkeypatch):
    attention, values, hidden = torch.zeros(5, 9, 2), torch.zeros(4, 8), torch.zeros(5, 16)
    for allowed, precision in ((torch.backends.cuda.matmul.allow_tf32, 'ieee'), (True, 'tf32')):
        monkeypatch.setattr(torch.backends, 'cuda', SimpleNamespace(matmul=SimpleNamespace(allow_tf32=allowed)))
        assert fused.kernels.layer_settings('first_layer', attention, values, hidden)['PRECISION'] == precision
