"""The rooms of the project: which package may import which, what they show, and what tests leave alone."""
import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

COMMANDS = ('train', 'test', 'demo', 'visualize')
# for each room, what it may import of the project besides itself; `engine` is the modules that lie in it directly
ROOMS = {
    'utils': set(),
    'common': {'utils'},
    'imaging': {'common', 'utils'},
    'models': {'common', 'utils'},
    'datasets': {'common', 'imaging', 'utils'},
    'engine': {'common', 'datasets', 'imaging', 'models', 'utils'},
    'engine.evaluation': {'common', 'datasets', 'engine', 'imaging', 'models', 'utils'},
    'engine.analysis': {'common', 'datasets', 'engine', 'engine.evaluation', 'imaging', 'models', 'utils'},
    'engine.training': {'common', 'datasets', 'engine', 'engine.evaluation', 'imaging', 'models', 'utils'},
    'figures': {'common', 'datasets', 'engine', 'engine.analysis', 'engine.evaluation', 'imaging', 'models', 'utils'},
    'web': {'common', 'engine', 'imaging', 'models', 'utils'},
    'engine.tools': {'common', 'datasets', 'engine', 'engine.evaluation', 'imaging', 'models', 'utils'},
}
OLD_COMMANDS = {'engine.average', 'engine.export', 'engine.grow'}  # the names under which the tools can still be started
REGISTRIES = {('engine.config', 'engine.training')}  # whose names the keys of a config are checked against
TOP = {*ROOMS, *COMMANDS, 'benchmarks', 'tests', 'assets'}
INSIDE_MODELS = ('models.msit', 'models.encoders', 'models.decoders')  # nobody else's business
FILES = sorted(file.relative_to(ROOT) for top in (*(room for room in ROOMS if '.' not in room), *COMMANDS)
               for file in (ROOT.glob(f'{top}.py') if (ROOT / f'{top}.py').exists() else (ROOT / top).rglob('*.py')))


def module_name(file: Path) -> str:
    """engine/config.py → engine.config, engine/__init__.py → engine."""
    return '.'.join(file.with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(file) for file in FILES}
PACKAGES = sorted(module_name(file) for file in FILES if file.name == '__init__.py')


def room_of(module: str) -> str | None:
    """The room, or the top-level name, that a module of the project belongs to; None for one of a library."""
    parts = module.split('.')
    nested = '.'.join(parts[:2])
    return nested if nested in ROOMS else parts[0] if parts[0] in TOP else None


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}:{node.lineno}: relative import'
            for alias in node.names:  # a module of a package, or a name in a module
                whole = f'{node.module}.{alias.name}'
                yield node.lineno, whole if whole in MODULES else node.module


@pytest.mark.parametrize('file', FILES, ids=str)
def test_imports_keep_the_directions(file):
    module = module_name(file)
    room = 'command' if module in OLD_COMMANDS else room_of(module)
    allowed = ROOMS.get(room, {*ROOMS}) | {room}  # commands: of every room
    wrong = [f'{file}:{line}: {room} imports {name}' for line, name in imports(file)
             if room_of(name) not in {*allowed, None} and (module, room_of(name)) not in REGISTRIES]
    assert not wrong


@pytest.mark.parametrize('file', [file for file in FILES if file.parts[0] != 'models'], ids=str)
def test_the_parts_of_models_are_its_own_business(file):
    wrong = [f'{file}:{line}: imports {name}' for line, name in imports(file)
             if any(name == part or name.startswith(f'{part}.') for part in INSIDE_MODELS)]
    assert not wrong


@pytest.mark.parametrize('package', PACKAGES)
def test_packages_list_what_they_offer(package):
    module = importlib.import_module(package)
    assert isinstance(module.__all__, list)
    assert all(hasattr(module, name) for name in module.__all__)
    assert module.__all__ == sorted(set(module.__all__), key=module.__all__.index)  # no name twice


@pytest.mark.parametrize('file', sorted((ROOT / 'tests').glob('*.py')), ids=lambda file: file.name)
def test_tests_do_not_patch_private_names(file):
    tree = ast.parse(file.read_text(encoding='utf-8'))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
             and node.func.attr in ('setattr', 'delattr')]
    names = [(node.lineno, argument.value.rsplit('.', 1)[-1]) for node in calls for argument in node.args[:2]
             if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
    private = [f'{file.name}:{line}: {name}' for line, name in names
               if name.startswith('_') and not name.startswith('__')]
    assert not private


def test_the_readers_of_imports_see_all_of_them(tmp_path):
    file = tmp_path / 'example.py'
    file.write_text('import models.msit.rim as rim\n\ndef late():\n    from models import msit, load\n    import os.path\n')
    assert sorted(imports(file)) == [(1, 'models.msit.rim'), (4, 'models'), (4, 'models.msit'), (5, 'os.path')]
    assert [room_of(name) for name in ('engine.training.trainer', 'engine.config', 'engine', 'os.path', 'test')] == [
        'engine.training', 'engine', 'engine', None, 'test']
