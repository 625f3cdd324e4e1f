"""Values that a field of the wire schema must refuse, worked out from its type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

EXAMPLES: dict[str, Any] = {
    "bool": True,
    "int": 3,
    "float": 0.5,
    "str": "text",
    "list": [{"nested": 1}],
    "object": {"nested": [1]},
}


def bad_values(kind: type[msgspec.Struct]) -> dict[str, list[Any]]:
    """Return for every field values of each wrong type, and values just out of range."""
    found: dict[str, list[Any]] = {}
    for name, value in each_bad_value(kind):
        found.setdefault(name, []).append(value)
    return found


def each_bad_value(kind: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        options = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        accepted = {name for option in options for name in json_kinds(option)}
        for name, value in EXAMPLES.items():
            if name not in accepted:
                yield field.name, value
        if field.required:
            yield field.name, None
        for option in options:
            for value in out_of_range(option):
                yield field.name, value


def json_kinds(option: inspect.Type) -> set[str]:
    match option:
        case inspect.BoolType():
            return {"bool"}
        case inspect.IntType():
            return {"int"}
        case inspect.FloatType():
            return {"float", "int"}
        case inspect.StrType():
            return {"str"}
        case inspect.DictType(value_type=inspect.AnyType()):
            return {"object"}
        case inspect.DictType() | inspect.StructType():
            return set()  # the example's contents are wrong too
        case inspect.ListType():
            return set()
        case inspect.NoneType():
            return set()
    raise AssertionError(f"no JSON kind for {option}")


def out_of_range(option: inspect.Type) -> Iterator[Any]:
    if isinstance(option, inspect.IntType):
        if option.ge is not None:
            yield option.ge - 1
        if option.le is not None:
            yield option.le + 1
        yield 10**30
    if isinstance(option, inspect.FloatType):
        if option.ge is not None:
            yield option.ge - 0.001
        if option.gt is not None:
            yield option.gt
        if option.le is not None:
            yield option.le + 0.001
        yield 1e308
