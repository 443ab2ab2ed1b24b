"""Registries: a spec `{name: …, args: {…}}` becomes an object. There is one registry for each kind of thing.

A spec is checked as a whole before anything is built: unknown names, misspelt and missing arguments are reported with
the path of the key (`model.args.encoder_spec.args.n_feat`) and the nearest valid name. An argument that is a spec itself
says of which kind by its annotation: `encoder_spec: Annotated[dict, ENCODERS]`.
"""
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from common.ranges import DEFAULT_LIMIT, AtMost, declared_limit
from utils import UserError, nearest_name, one_line, shortened

_REGISTRIES: list['Registry'] = []  # all there are, to tell of which kind a name is that stands in the wrong place

WRONG_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)  # what they cause


class SpecError(UserError):
    """A spec is wrong; the message begins with the path of the key."""


class Registry:
    """Names → constructors of one kind of thing (`kind` appears in the messages).

    Args:
        limit: of every number in a spec whose argument has none of its own: `Annotated[int, AtMost(64)]`.
    """

    def __init__(self, kind: str, limit: AtMost = DEFAULT_LIMIT):
        self.kind, self.limit = kind, limit
        self.one = f"{'an' if kind[0] in 'aeiouM' else 'a'} {kind}"  # with its article, for messages
        self.entries: dict[str, Any] = {}  # classes or functions
        self.provided: dict[str, tuple[str, ...]] = {}
        _REGISTRIES.append(self)

    def register(self, name: str, provided: tuple[str, ...] = ()) -> Callable:
        """Decorator that registers a class or function under `name`. A name that is taken raises ValueError.

        `provided` are arguments that the program passes to `make` (an MLP's input width), never a spec.
        """
        def decorator(entry: Callable) -> Callable:
            if name in self.entries:
                raise ValueError(f"{self.kind} name '{name}' is already registered")
            self.entries[name] = entry
            self.provided[name] = provided
            return entry
        return decorator

    def arguments(self, name: str) -> dict[str, inspect.Parameter]:
        """The arguments that a spec of `name` may carry."""
        parameters = inspect.signature(self.entries[name], eval_str=True).parameters  # also those that were left as texts
        return {key: value for key, value in parameters.items() if key not in self.provided[name]}

    def check(self, spec: object, path: str) -> None:
        """Raises SpecError, naming the key's `path`, unless `spec` is one that `make` can build."""
        if not isinstance(spec, dict):
            raise SpecError(f"{path}: expected a block with 'name' and 'args', got {shortened(spec)}")
        for key in spec:
            if key not in ('name', 'args'):
                raise SpecError(f"{path}.{shortened(key, quotes=False)}: unknown key; {nearest_name(key, ('name', 'args'))}")
        name = self._checked_name(spec, path)
        args = spec.get('args')
        args = {} if args is None else args
        if not isinstance(args, dict):
            raise SpecError(f"{path}.args: expected a block of arguments of {self.kind} '{name}', got {shortened(args)}")

        parameters = self.arguments(name)
        for key, value in args.items():
            if key not in parameters:
                raise SpecError(f"{path}.args.{shortened(key, quotes=False)}: {self.kind} '{name}' has no such argument; "
                                f'{nearest_name(key, parameters)}')
            annotation = parameters[key].annotation
            inner = spec_registry(annotation)
            if inner is not None and value is not None:
                inner.check(value, f'{path}.args.{key}')
            elif not _is_a(value, annotation):
                raise SpecError(f'{path}.args.{key}: expected {_type_name(annotation)}, got {shortened(value)}')
            elif problem := (declared_limit(annotation) or self.limit).problem(value):
                raise SpecError(f'{path}.args.{key}: {problem}')
        missing = [key for key, parameter in parameters.items()
                   if parameter.default is parameter.empty and key not in args]
        if missing:
            raise SpecError(f"{path}.args: {self.kind} '{name}' needs {', '.join(missing)}")

    def with_defaults(self, spec: dict) -> dict:
        """A valid spec with every default written out, also in the specs inside it: equal for specs that mean the same."""
        parameters = self.arguments(spec['name'])
        args = {key: parameter.default for key, parameter in parameters.items()} | (spec.get('args') or {})
        for key, value in args.items():
            inner = spec_registry(parameters[key].annotation)
            if inner is not None and value is not None:
                args[key] = inner.with_defaults(value)
            elif isinstance(value, tuple):
                args[key] = list(value)  # YAML has no tuples
        return {'name': spec['name'], 'args': args}

    def _checked_name(self, spec: dict, path: str) -> str:
        """The name in a spec. Raises SpecError when there is none, it is unknown, or it is that of another kind of thing."""
        name = spec.get('name')
        if not isinstance(name, str):
            raise SpecError(f'{path}.name: expected the name of {self.one}, got {shortened(name)}')
        if name not in self.entries:
            other = next((registry for registry in _REGISTRIES if name in registry.entries), None)
            raise SpecError(f"{path}.name: '{name}' is {other.one}, expected {self.one} "
                            f"(choices: {', '.join(sorted(self.entries))})" if other else
                            f"{path}.name: unknown {self.kind} {shortened(name)}; {nearest_name(name, self.entries)}")
        return name

    def make(self, spec: dict, path: str = 'spec', **provided: Any) -> Any:
        """Builds the object of a spec; `provided` are the arguments that only the program knows.

        Raises SpecError, with the key's path, when the spec or a value in it is wrong.
        """
        self.check(spec, path)
        try:
            return self.entries[spec['name']](**(spec.get('args') or {}), **provided)
        except SpecError as error:  # of a spec inside this one
            raise SpecError(f'{path}.args.{error}') from error
        except UserError:
            raise
        except WRONG_VALUES as error:
            raise SpecError(f"{path}.args: {self.kind} '{spec['name']}': {one_line(error)}") from error

    def make_named(self, name: str, path: str):
        """The object of a bare name, all arguments at their defaults.

        Args:
            path: of the config key or option that holds the name, for messages.
        Raises: SpecError that lists the choices.
        """
        if name not in self.entries:
            raise SpecError(f'{path}: unknown {self.kind} {shortened(name)}; {nearest_name(name, self.entries)}')
        return self.make({'name': name}, path)


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports every module in a package's folder, so that each registers what it defines. Call with `__name__, __path__`."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f'{package}.{module.name}')


def spec_registry(annotation: object) -> Registry | None:
    """The registry of an argument that is itself a spec: that of `Annotated[dict, REGISTRY]`, optional or not."""
    for option in (annotation, *typing.get_args(annotation)):
        for registry in getattr(option, '__metadata__', ()):
            if isinstance(registry, Registry):
                return registry
    return None


def _is_a(value: object, annotation: Any) -> bool:
    """Whether a YAML value fits a parameter's annotation. Annotations that YAML has no values for are not judged."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_a(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_is_a(item, inner[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str, list, dict, type(None)):
        return isinstance(value, annotation)
    return True


def _type_name(annotation: object) -> str:
    """An annotation as a message names it."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
