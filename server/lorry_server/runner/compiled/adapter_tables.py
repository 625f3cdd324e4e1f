"""How a model's adapters lie: int8 on quantized weights, floats on floats."""

from __future__ import annotations

from lorry_server.kernels.cpu.memory import Arena
from lorry_server.model.decoder import Decoder
from lorry_server.runner.compiled.adapter_table import AdapterTable
from lorry_server.runner.compiled.arithmetic import arithmetic_of
from lorry_server.runner.compiled.float_packer import FloatPacker
from lorry_server.runner.compiled.int8_packer import Int8Packer


def make_adapter_table(decoder: Decoder, arena: Arena, *, max_rows: int) -> AdapterTable:
    """The table of a decoder that still has its weights; `max_rows` is the most tokens of a step."""
    element = arithmetic_of(decoder).element
    packer = Int8Packer() if element is None else FloatPacker(element)
    return AdapterTable(
        decoder.linears(),
        packer,
        arena,
        max_rows=max_rows,
        dtype=arithmetic_of(decoder).dtype,
        norms=decoder.norms(),
        embedding=decoder.embedding,
        base=decoder.base_weights,
    )
