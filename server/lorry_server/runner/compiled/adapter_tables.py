"""Which table holds a model's adapters: int8 on quantized weights, floats on floats."""

from __future__ import annotations

from lorry_server.kernels.cpu.memory import Arena
from lorry_server.lora.pool import AdapterPool
from lorry_server.model.decoder import Decoder
from lorry_server.runner.compiled.adapter_table import AdapterTable
from lorry_server.runner.compiled.arithmetic import arithmetic_of
from lorry_server.runner.compiled.float_adapter_table import FloatAdapterTable


def make_adapter_table(
    decoder: Decoder, pool: AdapterPool, arena: Arena, *, max_rows: int
) -> AdapterTable | FloatAdapterTable:
    """The table of `pool`'s adapters; `max_rows` is the most tokens of a step."""
    element = arithmetic_of(decoder).element
    if element is None:
        return AdapterTable(pool, arena, max_rows=max_rows)
    return FloatAdapterTable(pool, arena, max_rows=max_rows, element=element)
