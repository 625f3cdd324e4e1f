"""A `Generation` as JSON and back, field by field after the classes' own annotations."""

from __future__ import annotations

import functools
import typing
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec

from lorry.generation import Generation
from lorry.timing import Timing
from lorry.types.common import Timings


def encode_generation(generation: Generation) -> bytes:
    """All of it but the tag, which is the caller's own object."""
    untagged = msgspec.structs.replace(generation, tag=None)
    return msgspec.json.encode(untagged, enc_hook=_array_as_list)


def decode_generation(encoded: bytes | memoryview | msgspec.Raw) -> Generation:
    """What was encoded. Raises msgspec.ValidationError if it is not a generation."""
    fields = msgspec.json.decode(encoded, type=dict[str, Any])
    timing = _converted(Timing, fields.pop("timing"))
    if timing.get("token_ns") is not None:
        timing["token_ns"] = array("q", timing["token_ns"])
    return Generation(timing=Timing(**timing), **_converted(Generation, fields))


def _converted(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the class has, each of its type; those that it has no longer are left out."""
    hints = _hints(kind)
    return {
        name: msgspec.convert(value, hints[name]) for name, value in fields.items() if name in hints
    }


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    # `array[int]` cannot be evaluated before Python 3.12; in JSON it is a list in any case. A class
    # that is imported for type checking only is not among the names of its module.
    return typing.get_type_hints(kind, localns={"array": list, "Timings": Timings})


def _array_as_list(value: Any) -> Any:
    if isinstance(value, array):
        return value.tolist()
    raise NotImplementedError(f"a {type(value).__name__} in a result cannot be written as JSON")
