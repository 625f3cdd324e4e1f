"""`AdapterTable`: the adapters of a model as the compiled code finds them, by linear and number."""

from __future__ import annotations

from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.records import Field


class AdapterTable:
    def fields(self, linear: PackedLinear) -> dict[int, Field]:
        return {}
