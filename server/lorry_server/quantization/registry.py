"""The names by which a user asks for a quantization scheme."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lorry_server.errors import ModelError
from lorry_server.quantization.int4 import Int4
from lorry_server.quantization.int8 import Int8
from lorry_server.quantization.scheme import Scheme
from lorry_server.quantization.unquantized import Unquantized
from lorry_server.quantization.zero_one import ZeroOne

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {"none": Unquantized(), "int8": Int8(), "int4": Int4(), "zero-one": ZeroOne()}
)


def scheme_named(name: str) -> Scheme:
    """Raises `ModelError` for a name that is not in `SCHEMES`."""
    if name not in SCHEMES:
        raise ModelError(f"quantization {name!r} is unknown; known are {', '.join(SCHEMES)}")
    return SCHEMES[name]
