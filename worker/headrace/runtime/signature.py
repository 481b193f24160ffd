"""A handler's annotations are its schema: from JSON data to arguments, from a result to JSON.

One positional parameter takes the whole data, checked against its annotation. Several take an
object with their names as keys. None take nothing. Parameters with `CONTEXT` or `Resource(...)`
as their default are filled in by the worker.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from headrace.errors import ConfigurationError, InvalidData
from headrace.runtime.context import CONTEXT, Context, ResourceMarker

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNSET: Any = object()


_PLAIN = (dict, str, int, float, bool, type(None))


class Signature:
    """How one function takes its data and gives its result."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{function!r} is no handler: {error}") from None
        self._hints = _hints(function)
        self._context: str | None = None
        self._resources: dict[str, str] = {}
        self._fields: list[tuple[inspect.Parameter, TypeAdapter[Any] | None, bool]] = []
        for parameter in parameters:
            self._take(parameter)
        result = self._hints.get("return", Any)
        origin = get_origin(result)
        streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        if streams and isinstance(origin, type) and issubclass(origin, AsyncIterable | Iterable):
            result = (get_args(result) or (Any,))[0]  # of each chunk
        self._result = None if _is_open(result) else self._adapter(result, "its result")

    def _take(self, parameter: inspect.Parameter) -> None:
        hint = self._hints.get(parameter.name, Any)
        if parameter.default is CONTEXT or (hint is Context and parameter.name == "ctx"):
            self._context = parameter.name
            return
        if isinstance(parameter.default, ResourceMarker):
            self._resources[parameter.name] = parameter.default.name
            return
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return
        if isinstance(hint, str):
            raise ConfigurationError(
                f"{self.name}: the annotation {hint!r} of {parameter.name} cannot be resolved",
                hint="Import the type at run time, not only under TYPE_CHECKING",
            )
        adapter = None if _is_open(hint) else self._adapter(hint, f"parameter {parameter.name}")
        self._fields.append((parameter, adapter, _is_dict(hint)))

    def _adapter(self, hint: Any, what: str) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(hint)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            first = str(error).splitlines()[0]
            raise ConfigurationError(
                f"{self.name}: {what} has a type that JSON data cannot become: {first}",
                hint="Use a pydantic model, a dataclass, a TypedDict or plain types",
            ) from None

    @property
    def takes_whole(self) -> bool:
        """Whether the data as a whole is the one argument."""
        return len(self._fields) == 1 and self._fields[0][0].kind in _POSITIONAL

    @property
    def asks_context(self) -> bool:
        """Whether the function takes the context."""
        return self._context is not None

    def bind(
        self, data: Any, context: Context | None, resources: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for the function. Raises `InvalidData` with the path of what does not fit."""
        keywords: dict[str, Any] = {}
        if self._context is not None:
            keywords[self._context] = context
        for parameter, name in self._resources.items():
            if name not in resources:
                raise ConfigurationError(f"{self.name} asks for the resource {name!r}: not there")
            keywords[parameter] = resources[name]
        if self.takes_whole:
            _, adapter, is_dict = self._fields[0]
            return (_validated(adapter, is_dict, data, "data"),), keywords
        return (), keywords | self._named(data)

    def _named(self, data: Any) -> dict[str, Any]:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            names = ", ".join(field[0].name for field in self._fields)
            raise InvalidData("data", f"{self.name} takes an object with {names or 'nothing'}")
        given: dict[str, Any] = {}
        for parameter, adapter, is_dict in self._fields:
            name = parameter.name
            if name in data:
                given[name] = _validated(adapter, is_dict, data[name], f"data.{name}")
            elif parameter.default is parameter.empty:
                raise InvalidData(f"data.{name}", "is missing")
        return given

    def data_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The data of a call with these arguments, checked. Raises `InvalidData`, `TypeError`."""
        fields = {parameter.name: adapter for parameter, adapter, _ in self._fields}
        parameters = [
            parameter.replace(annotation=parameter.empty) for parameter, _, _ in self._fields
        ]
        bound = inspect.Signature(parameters).bind(*args, **kwargs).arguments
        shown = {name: _dumped(fields[name], value) for name, value in bound.items()}
        if self.takes_whole:
            name = self._fields[0][0].name
            data = shown.get(name)
        else:
            data = shown
        self.check(data)
        return data

    def check(self, data: Any) -> None:
        """Raise `InvalidData` if the handler would refuse this data."""
        if self.takes_whole:
            _, adapter, is_dict = self._fields[0]
            _validated(adapter, is_dict, data, "data")
        else:
            self._named(data)

    def result_to_json(self, value: Any) -> Any:
        """A result, or a chunk of a stream, as JSON values."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if self._result is not None and not isinstance(value, dict | str | int | float | None):
            return self._result.dump_python(value, mode="json", warnings=False)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return TypeAdapter(type(value)).dump_python(value, mode="json")
        return value

    def result_from_json(self, value: Any) -> Any:
        """The typed result for the caller. Raises `InvalidData` if it does not fit."""
        return _validated(self._result, False, value, "result")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004  # the method, not whether there is one
    while hasattr(target, "func"):  # functools.partial
        target = target.func
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # a name that is only there for the type checker: one by one
        raw = dict(getattr(target, "__annotations__", {}))
        space = getattr(target, "__globals__", {}) | _closure(target)
        return {name: _resolved(hint, space) for name, hint in raw.items()}


def _closure(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=False)}


def _resolved(hint: Any, space: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, space)
    except Exception:
        return hint  # stays text; an error for a parameter, unchecked for a result


def _is_open(hint: Any) -> bool:
    return hint is Any or hint is inspect.Parameter.empty or isinstance(hint, str) or _is_dict(hint)


def _is_dict(hint: Any) -> bool:
    if hint in (dict, typing.Mapping, Mapping):
        return True
    return get_origin(hint) in (dict, Mapping) and get_args(hint) == (str, Any)


def _validated(adapter: TypeAdapter[Any] | None, is_dict: bool, value: Any, path: str) -> Any:
    if is_dict and not isinstance(value, dict):
        raise InvalidData(path, f"is a {type(value).__name__}, not an object")
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = path + "".join(
            f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]
        )
        more = error.error_count() - 1
        tail = f" (and {more} more)" if more else ""
        raise InvalidData(where, f"{first['msg']}{tail}") from None


def _dumped(adapter: TypeAdapter[Any] | None, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if adapter is None:
        return value
    try:
        return adapter.dump_python(value, mode="json", warnings=False)
    except (ValueError, TypeError):
        return value  # the check that follows says what is wrong with it
