"""The fused path of MSSA's queries without a GPU: its kernels through Triton's interpreter, and the choice between paths."""
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import yaml
from conftest import ROOT

import demo
import models
import test
from models.contract import SRModel
from models.msit import fused

CPU = torch.device('cpu')
needs_triton = pytest.mark.skipif(not fused.COMPILER, reason='needs Triton')
GPU = torch.device('cuda', 0)


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=1200,
                          env=os.environ | {'CUDA_VISIBLE_DEVICES': '', **environment})


@needs_triton
@pytest.mark.parametrize('chosen, least', [
    ('both_paths or share or 16_bit', 4), pytest.param('test', 25, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_kernels_through_the_interpreter(chosen, least):
    """In a separate process: Triton decides once, when it is imported, whether kernels are compiled or interpreted."""
    done = run_python('-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', chosen, 'tests/fused_checks.py',
                      TRITON_INTERPRET='1')
    assert done.returncode == 0, done.stdout[-6000:]
    outcome = re.fullmatch(r'(\d+) passed(, \d+ deselected)? in .*', done.stdout.splitlines()[-1])
    assert outcome and int(outcome[1]) >= least, done.stdout[-1000:]


@needs_triton
@pytest.mark.skipif(os.environ.get('TRITON_INTERPRET') == '1', reason='interpreted kernels are not compiled')
@pytest.mark.slow
@pytest.mark.parametrize('capability, memory, dtype', [
    (90, 227, torch.bfloat16), (80, 99, torch.bfloat16), (80, 99, torch.float32)])
def test_kernels_compile_for_gpus(monkeypatch, tmp_path, capability, memory, dtype):
    """At the paper's sizes, for a GPU that need not be there, into machine code within its shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    kernels, built = fused.load_kernels(), []

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
            assert fused.supported(GPU, dtype)


@pytest.mark.parametrize('lacking', ['triton', 'cuda', 'capability', 'type', 'determinism'])
def test_plain_pytorch_where_kernels_cannot_run(monkeypatch, lacking):
    monkeypatch.setattr(torch.version, 'hip', 'some version' if lacking == 'cuda' else None)
    if lacking == 'triton':
        monkeypatch.setattr(fused, 'COMPILER', False)
    gpu_is(monkeypatch, 7 if lacking == 'capability' else 9)
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: lacking == 'determinism')
    dtype = torch.float64 if lacking == 'type' else torch.float32
    assert fused.available(SimpleNamespace(device=GPU, dtype=dtype)) is False


def test_plain_pytorch_on_cpus():
    assert fused.available(torch.zeros(2, 3)) is False


class Stub:
    """In the place of the kernels, on a CPU: right, or with one result that is wrong. Counts its calls."""

    def __init__(self, wrong: str = '', error: Exception | None = None):
        self.wrong, self.error, self.calls = wrong, error, 0

    def result(self, name: str, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        self.calls += 1
        if self.error:
            raise self.error
        changed = tuple(tensor * 1.5 if self.wrong == f'{name} {i}' else tensor.clone() for i, tensor in enumerate(tensors))
        return changed if len(changed) > 1 else changed[0]

    def query_key_products(self, query, keys, rows, heads):
        dim = query.shape[1] // heads
        near = keys[rows].float().view(*rows.shape, heads, dim)
        return self.result('products', (query.float().view(-1, 1, heads, dim) * near).sum(3))

    def query_key_products_backward(self, grad, query, keys, rows):
        (n, k, heads), dim = grad.shape, query.shape[1] // grad.shape[2]
        grad_query = torch.einsum('nkh,nkhd->nhd', grad, keys[rows].float().view(n, k, heads, dim))
        terms = torch.einsum('nkh,nhd->nkhd', grad, query.float().view(n, heads, dim)).reshape(n * k, -1)
        grad_keys = torch.zeros_like(keys, dtype=torch.float32).index_add(0, rows.flatten(), terms)
        return self.result('products gradient', grad_query.reshape(query.shape).to(query), grad_keys.to(keys))

    def weighted_values(self, attention, values, rows):
        near = values[rows].float().view(*attention.shape, -1)
        return (attention.unsqueeze(3) * near).flatten(1), near

    def weighted_first_layer(self, attention, values, rows, weight):
        return self.result('hidden', (self.weighted_values(attention, values, rows)[0] @ weight.float().T).to(weight))

    def inputs_backward(self, grad, attention, values, rows, weight):
        near = self.weighted_values(attention, values, rows)[1]
        weighted = (grad.float() @ weight.float()).view(near.shape)
        terms = (weighted * attention.unsqueeze(3)).view(rows.numel(), -1)
        grad_values = torch.zeros_like(values, dtype=torch.float32).index_add(0, rows.flatten(), terms)
        return self.result('inputs gradient', (weighted * near).sum(3), grad_values.to(values))

    def weight_backward(self, grad, attention, values, rows):
        return self.result('weight gradient', (grad.float().T @ self.weighted_values(attention, values, rows)[0]).to(grad))


@pytest.fixture
def stubbed(monkeypatch):
    """stubbed(stub): the kernels are a stub that runs on the CPU, nothing is checked yet, and the case is a small one."""
    def replace(stub: Stub) -> Stub:
        monkeypatch.setattr(fused, 'load_kernels', lambda: stub)
        monkeypatch.setattr(fused, 'checked', {})
        monkeypatch.setattr(fused, 'DEVICE', 'cpu')
        monkeypatch.setattr(fused, 'supported', lambda device, dtype: True)
        monkeypatch.setattr(fused, 'CASE', fused.Case(queries=9, rows=5, channels=8, heads=2, keys=4, hidden=6))
        return stub
    return replace


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_right_kernels_stay_on(stubbed, caplog, dtype):
    stub = stubbed(Stub())
    x = torch.zeros(1, dtype=dtype)
    assert fused.usable(x.device, x.dtype) and stub.calls == 5  # forward and backward of both operators
    assert fused.usable(x.device, x.dtype) and stub.calls == 5  # asked once
    assert not caplog.records


@pytest.mark.parametrize('wrong, named', [
    ('products 0', 'products differs'), ('hidden 0', 'hidden differs'),
    ('products gradient 0', 'gradient of query differs'), ('products gradient 1', 'gradient of keys differs'),
    ('inputs gradient 0', 'gradient of attention differs'), ('inputs gradient 1', 'gradient of values differs'),
    ('weight gradient 0', 'gradient of weight differs')])
def test_kernels_with_one_wrong_result_are_off(stubbed, caplog, wrong, named):
    """A result 1.5 times what it should be is off by half of its largest number."""
    stub = stubbed(Stub(wrong))
    assert not fused.usable(CPU, torch.float32)
    assert not fused.usable(CPU, torch.float32) and not fused.usable(CPU, torch.bfloat16)  # for the process, unasked
    assert stub.calls == 5
    line, = caplog.messages
    assert '\n' not in line and 'cpu in torch.float32' in line and f'{named} from plain PyTorch by 0.5 of' in line


def test_results_that_are_no_numbers_are_wrong(stubbed, caplog, monkeypatch):
    stub = stubbed(Stub())
    monkeypatch.setattr(stub, 'weighted_first_layer', lambda *tensors: torch.full((9, 6), torch.nan))
    assert not fused.usable(CPU, torch.float32)
    assert 'hidden differs from plain PyTorch by nan' in caplog.text


def test_kernels_that_cannot_be_compiled_are_off(stubbed, caplog):
    stub = stubbed(Stub(error=RuntimeError('out of resource: shared memory,\nRequired: 232448')))
    for _ in range(2):
        assert not fused.usable(CPU, torch.float32)
    assert stub.calls == 1
    line, = caplog.messages
    assert line.endswith('RuntimeError: out of resource: shared memory, Required: 232448')


def test_each_device_and_type_is_checked_by_itself(stubbed):
    stub = stubbed(Stub())
    for dtype in (torch.float32, torch.bfloat16, torch.float32, torch.bfloat16):
        assert fused.usable(CPU, dtype)
    assert stub.calls == 10
    assert fused.checked == {(CPU, torch.float32): True, (CPU, torch.bfloat16): True}


def test_the_check_draws_no_random_numbers_and_leaves_modes_alone(stubbed):
    stubbed(Stub())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert fused.usable(CPU, torch.float32)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled('cpu')
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_queries_that_are_compiled_ask_before_they_are_traced(stubbed, tiny_msit):
    """Tracing runs no check: undecided means plain PyTorch; decided means the kernels, without a break of the graph."""
    stub = stubbed(Stub())
    model, latent, queries = small_queries(tiny_msit)
    plain = torch.compile(model.query, backend='aot_eager', fullgraph=True)(latent, *queries)
    assert stub.calls == 0 and not fused.checked
    model.use_kernels(True, torch.float32)
    assert stub.calls == 5
    fast = torch.compile(model.query, backend='aot_eager', fullgraph=True)(latent, *queries)
    assert stub.calls == 7
    assert (fast - plain).abs().max() < 1e-5


def test_kernels_are_turned_off_by_hand(stubbed, tiny_msit):
    stub = stubbed(Stub())
    model, latent, queries = small_queries(tiny_msit)
    assert model.use_kernels(False) is model
    plain = model.query(latent, *queries)
    assert stub.calls == 0
    fast = model.use_kernels(True).query(latent, *queries)
    assert stub.calls == 7  # the check, and both operators
    assert (fast - plain).abs().max() < 1e-5


def test_training_turns_them_off_by_key_or_option(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(SRModel, 'use_kernels', lambda model, on, dtype: asked.append((on, dtype)))
    lab.trainer('default')
    lab.trainer('half', precision='bfloat16')
    lab.trainer('key', fused=False)
    assert lab.train('option', '-no-kernels', epoch_max=1).status == 0
    assert asked == [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32), (False, torch.float32)]
    assert yaml.safe_load(lab.save('option', 'config.yaml').read_text())['fused'] is False


@pytest.mark.parametrize('options, on', [((), True), (('-no-kernels',), False)])
def test_commands_turn_them_off_by_option(lab, monkeypatch, options, on):
    asked, image = [], lab.folder / 'data/images/0.png'
    monkeypatch.setattr(SRModel, 'use_kernels', lambda model, on, dtype=None: [asked.append(on), model][1])
    config = lab.folder / 'test.yaml'
    config.write_text(yaml.safe_dump({'test_dataset': lab.config['val_dataset']}))
    for main, words in ((demo.main, ('-input', image, '-scale', 2, '-model', 'bicubic')),
                        (test.main, ('-config', config, '-model', 'bicubic'))):
        monkeypatch.setattr(sys, 'argv', [str(word) for word in ('command', *words, '-device', 'cpu', *options)])
        main()
    assert asked == [on, on]


def small_queries(spec: dict) -> tuple[SRModel, NamedTuple, tuple[torch.Tensor, torch.Tensor]]:
    """A model, the latent of noise, and coordinates and cell of a few queries."""
    torch.manual_seed(0)
    model = models.make(spec).requires_grad_(False)
    return model, model.encode(torch.rand(1, 3, 5, 4)), (torch.rand(1, 7, 2).double() * 2 - 1, torch.full((1, 2), 0.1))


@pytest.mark.slow
def test_everything_runs_without_triton(tiny_msit):
    """An import of Triton that fails, as on Windows, leaves a network that is trained by plain PyTorch."""
    done = run_python('-c', f'''
import sys
sys.modules['triton'] = None
import torch
import models
from models.msit import fused
from models.contract import SRModel
assert not fused.COMPILER
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
    assert not fused.has_compiler()
    monkeypatch.setattr(shutil, 'which', lambda name: '/bin/clang' if name == 'clang' else None)
    assert fused.has_compiler()
    monkeypatch.setitem(sys.modules, 'triton', None)
    assert not fused.has_compiler()


@needs_triton
def test_float32_is_exact_unless_tf32_is_allowed(monkeypatch):
    attention, values, hidden = torch.zeros(5, 9, 2), torch.zeros(4, 8), torch.zeros(5, 16)
    for allowed, precision in ((torch.backends.cuda.matmul.allow_tf32, 'ieee'), (True, 'tf32')):
        monkeypatch.setattr(torch.backends, 'cuda', SimpleNamespace(matmul=SimpleNamespace(allow_tf32=allowed)))
        assert fused.load_kernels().layer_settings('first_layer', attention, values, hidden)['PRECISION'] == precision
