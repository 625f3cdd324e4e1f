"""`write_decoder`: a `Decoder` as a tape, its weights packed, its buffers made.

A layer is seven operations: norm and quantize; the fused q, k and v; rotation, bytes of queries and
writing of the cache; attention; quantize; the output product, added to the residual stream; the same
again for the feed-forward layer, whose activation and quantization are done in the product's tiles.
Before each product stands the shrink of its adapters.

After the last layer's attention no token looks at another any more, so the rest of that layer is done
only for the rows whose logits are wanted: of a prompt, the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import padded
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.layers.rotary import Rope
from lorry_server.model.decoder import Attention, Decoder, FeedForward, Layer
from lorry_server.runner.compiled.adapter_table import AdapterTable
from lorry_server.runner.compiled.arithmetic import InputRows, arithmetic_of, reason_of_weights
from lorry_server.runner.compiled.buffers import FloatRows
from lorry_server.runner.compiled.byte_cache import ByteCache
from lorry_server.runner.compiled.elements import ELEMENT_BYTES, as_bits, bits_of
from lorry_server.runner.compiled.float_cache import FloatCache
from lorry_server.runner.compiled.logits_rows import LogitsRows
from lorry_server.runner.compiled.packed_linear import PackedLinear, pack_linear
from lorry_server.runner.compiled.records import Field, Tape
from lorry_server.runner.compiled.rungs import sampler_address

ACTIVATIONS: Mapping[str, int] = {"silu": t.SILU, "gelu_pytorch_tanh": t.GELU_TANH}
MIN_CHUNKS = 24  # of a matmul: enough for threads to even out
MAX_CHUNK_BYTES = 128 << 10  # of weights: nobody waits long for the last chunk


@dataclass(frozen=True, slots=True)
class Sizes:
    """The largest step."""

    max_tokens: int
    max_rows: int  # logits rows that are computed at once
    max_positions: int


def reason_not_to_compile(decoder: Decoder) -> str | None:
    """What of this model the compiled kernels do not do; None if they do it all."""
    reason = reason_of_weights(decoder)
    if reason is not None:
        return reason
    if decoder.arch.activation not in ACTIVATIONS:
        return f"its activation is {decoder.arch.activation}"
    return None


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream and what attention adds to it: of all tokens, or of the logits rows."""

    x: FloatRows
    attended: FloatRows
    rows: int  # TOKENS or LOGITS_ROWS


class DecoderTape:
    """The tape of one model. Operations from `tail` on concern only the rows whose logits are wanted.

    `tail` may be walked again for other rows of the same step: it leaves what is before it as it was.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: ByteCache | FloatCache,
        adapters: AdapterTable,
        arena: Arena,
        sizes: Sizes,
    ) -> None:
        self.arch = decoder.arch
        self._arithmetic = arithmetic_of(decoder)
        self.tape = Tape()
        self._arena = arena
        self._cache = cache
        self._adapters = adapters
        self._sizes = sizes
        self._rope_tables: dict[Rope, tuple[npt.NDArray[np.float32], ...]] = {}
        for rope, rotary in zip(decoder.ropes, decoder.rotaries, strict=True):
            self._rope_tables[rope] = self._rope_table(rotary, rope)
        self._make_buffers()
        self._write(decoder)

    def _make_buffers(self) -> None:
        arch, tokens, arena = self.arch, self._sizes.max_tokens, self._arena
        attended = arch.num_heads * arch.head_dim
        self._all, self._wanted = (
            Stream(
                x=FloatRows(arena, num_rows=num_rows, size=arch.hidden_size),
                attended=FloatRows(arena, num_rows=num_rows, size=attended),
                rows=rows_of,
            )
            for num_rows, rows_of in ((tokens, t.TOKENS), (self._sizes.max_rows, t.LOGITS_ROWS))
        )
        self.y = FloatRows(arena, num_rows=tokens, size=arch.hidden_size)
        part_sizes = self._qkv_sizes()
        self.qkv = FloatRows(arena, num_rows=tokens, size=sum(padded(size) for size in part_sizes))
        rows = self._arithmetic.rows
        self.hidden_in = rows(arena, num_rows=tokens, size=arch.hidden_size)
        self.attended_in: InputRows | None = (
            None  # none where attention's results go in as they are
        )
        if self._arithmetic.converts_attended is not None:
            self.attended_in = rows(arena, num_rows=tokens, size=attended)
        self.gated_in = rows(arena, num_rows=tokens, size=arch.intermediate_size)
        self.logits = FloatRows(arena, num_rows=self._sizes.max_rows, size=arch.vocab_size)
        self.logits_rows = LogitsRows(arena, max_rows=self._sizes.max_rows)
        queries = tokens * arch.num_heads
        self.q8 = arena.bytes((queries + 1) * padded(arch.head_dim) * self._cache.query_bytes)
        self.q8_scale = arena.floats(queries + 16)
        self.q8_start = arena.ints(queries + 16)

    def _qkv_sizes(self) -> list[int]:
        kv_size = self.arch.num_kv_heads * self.arch.head_dim
        return [self.arch.num_heads * self.arch.head_dim, kv_size, kv_size]

    def _write(self, decoder: Decoder) -> None:
        head = self._pack(decoder.head, [self.arch.vocab_size])
        self._embed(decoder, head)
        last = len(decoder.layers) - 1
        for index, layer in enumerate(decoder.layers):
            assert isinstance(layer, Layer)
            self._attention(index, layer)
            if index == last:
                self.tail = len(self.tape.names())
                self._gather("residual of wanted rows", self._all.x, self._wanted.x)
                self._gather("attended of wanted rows", self._all.attended, self._wanted.attended)
            stream = self._wanted if index == last else self._all
            self._attention_output(layer, stream)
            self._feed_forward(layer, stream)
        self._head(decoder, head)

    def _gather(self, name: str, rows: FloatRows, wanted: FloatRows) -> None:
        fields: dict[int, Field] = {
            t.NORM_X: rows.values,
            t.NORM_LD_X: rows.stride,
            t.NORM_PADDED: rows.padded,
            t.NORM_ADD_TO: wanted.values,
            t.NORM_LD_ADD_TO: wanted.stride,
        }
        self.tape.add(name, t.GATHER, fields, rows=t.LOGITS_ROWS)

    def _embed(self, decoder: Decoder, head: PackedLinear) -> None:
        fields: dict[int, Field] = {
            t.EMBED_X: self._all.x.values,
            t.EMBED_LD_X: self._all.x.stride,
            t.EMBED_SIZE: self.arch.hidden_size,
            t.EMBED_MULTIPLIER: self._rounded(self.arch.embedding_scale),
            t.EMBED_CHANGES: self._adapters.embeddings.changes,
            **self._arithmetic.fields,
        }
        if decoder.embedding_VD is None:
            fields |= {
                t.EMBED_W: head.w,
                t.EMBED_PANEL_BYTES: head.panel_bytes,
                t.EMBED_SCALE: head.scale,
                t.EMBED_ZERO: head.zero,
            }
        else:
            fields[t.EMBED_TABLE] = self._table(decoder.embedding_VD)
        self.tape.add("embed", self._arithmetic.embed, fields)

    def _table(self, embedding_VD: torch.Tensor) -> npt.NDArray[np.uint8]:
        """The embedding as it is added to the residual stream; of bfloat16 only for such weights."""
        element = t.FLOAT32 if self._arithmetic.element is None else self._arithmetic.element
        table = self._arena.bytes(embedding_VD.numel() * ELEMENT_BYTES[element])
        bits = as_bits(table, element)
        bits[: embedding_VD.numel()] = bits_of(embedding_VD, element).reshape(-1)
        return table

    def _attention(self, index: int, layer: Layer) -> None:
        attention: Attention = layer.attention
        self._norm(layer.attention_norm, self._all)
        qkv = self._pack(attention.qkv, self._qkv_sizes())
        self._matmul(
            "qkv",
            qkv,
            self.hidden_in,
            {t.MODE: t.STORE, t.Y: self.qkv.values, t.LD_Y: self.qkv.stride},
        )
        heads = self._heads(index, attention, qkv)
        self.tape.add("keys and values", self._cache.keys_and_values, heads)
        self.tape.add(
            "attention",
            self._cache.attend,
            heads
            | {t.ATTENDED: self._all.attended.values, t.LD_ATTENDED: self._all.attended.stride},
        )

    def _attention_output(self, layer: Layer, stream: Stream) -> None:
        attended = stream.attended
        rows_in: InputRows = attended
        if self._arithmetic.converts_attended is not None:
            assert self.attended_in is not None
            rows_in = self.attended_in
            self.tape.add(
                "attended rows",
                self._arithmetic.converts_attended,
                rows_in.as_input() | {t.NORM_X: attended.values, t.NORM_LD_X: attended.stride},
                rows=stream.rows,
            )
        output = self._pack(layer.attention.output, [self.arch.hidden_size])
        self._to_residual("output", output, rows_in, layer.attention_output_norm, stream)

    def _heads(self, index: int, attention: Attention, qkv: PackedLinear) -> dict[int, Field]:
        arch = self.arch
        fields: dict[int, Field] = {
            t.QKV: self.qkv.values,
            t.LD_QKV: self.qkv.stride,
            t.Q_OFFSET: 4 * qkv.column_of(0),
            t.K_OFFSET: 4 * qkv.column_of(1),
            t.V_OFFSET: 4 * qkv.column_of(2),
            t.NUM_KV_HEADS: arch.num_kv_heads,
            t.GROUP_SIZE: arch.num_heads // arch.num_kv_heads,
            t.HEAD_DIM: arch.head_dim,
            t.HEAD_PADDED: padded(arch.head_dim),
            t.ATTENTION_SCALE: float(arch.attention_scale),
            t.ATTENTION_SOFTCAP: float(arch.attention_softcap or 0.0),
            t.WINDOW: attention.window or 0,
            t.Q8: self.q8,
            t.Q8_SCALE: self.q8_scale,
            t.Q8_START: self.q8_start,
            t.ROUNDS: self._arithmetic.rounds,
            **self._cache.fields(index),
        }
        if attention.rope is not None:
            cos, sin = self._rope_tables[attention.rope]
            fields |= {t.ROPE_SIZE: attention.rope.size, t.COS: cos, t.SIN: sin}
        if attention.q_norm is not None and attention.k_norm is not None:
            fields |= {
                t.Q_NORM: self._norm_weight(attention.q_norm),
                t.K_NORM: self._norm_weight(attention.k_norm),
                t.Q_NORM_OWN: self._adapters.norms.of(attention.q_norm),
                t.K_NORM_OWN: self._adapters.norms.of(attention.k_norm),
                t.HEAD_EPS: float(arch.norm_eps),
            }
        return fields

    def _feed_forward(self, layer: Layer, stream: Stream) -> None:
        feed_forward: FeedForward = layer.feed_forward
        size = self.arch.intermediate_size
        self._norm(layer.feed_forward_norm, stream)
        gate_up = self._pack(feed_forward.gate_up, [size, size])
        self._matmul(
            "gate and up",
            gate_up,
            self.hidden_in,
            {t.MODE: t.GATE, t.ACTIVATION: ACTIVATIONS[self.arch.activation]}
            | self.gated_in.as_gated_output(),
            rows=stream.rows,
        )
        down = self._pack(feed_forward.down, [self.arch.hidden_size])
        self._to_residual("down", down, self.gated_in, layer.feed_forward_output_norm, stream)

    def _to_residual(
        self,
        name: str,
        linear: PackedLinear,
        rows_in: InputRows,
        norm: RMSNorm | None,
        stream: Stream,
    ) -> None:
        """A product that is added to the residual stream, through a norm if the model has one there."""
        factor = float(np.float32(self.arch.residual_scale))
        if norm is None:
            target: dict[int, Field] = {
                t.MODE: t.ADD,
                t.Y: stream.x.values,
                t.LD_Y: stream.x.stride,
                t.FACTOR: factor,
            }
            self._matmul(name, linear, rows_in, target, rows=stream.rows)
            return
        target = {t.MODE: t.STORE, t.Y: self.y.values, t.LD_Y: self.y.stride}
        self._matmul(name, linear, rows_in, target, rows=stream.rows)
        self.tape.add(
            "output norm",
            self._arithmetic.add_normed,
            self._norm_fields(norm, self.y)
            | self._arithmetic.fields
            | {
                t.NORM_ADD_TO: stream.x.values,
                t.NORM_LD_ADD_TO: stream.x.stride,
                t.NORM_FACTOR: factor,
            },
            rows=stream.rows,
        )

    def _head(self, decoder: Decoder, head: PackedLinear) -> None:
        self._norm(decoder.norm, self._wanted, name="last norm")
        logits: dict[int, Field] = {
            t.MODE: t.LOGITS,
            t.Y: self.logits.values,
            t.LD_Y: self.logits.stride,
            t.FACTOR: float(np.float32(self.arch.logits_divisor)),
            t.SOFTCAP: float(np.float32(self.arch.logits_softcap or 0.0)),
        }
        self._matmul("head", head, self.hidden_in, logits, rows=t.LOGITS_ROWS)
        self.tape.add(
            "own rows of the head",
            self._arithmetic.own_rows,
            self.hidden_in.as_input()
            | self._arithmetic.fields
            | logits
            | self._adapters.fields(head)
            | self._adapters.own_rows.fields(),
            rows=t.LOGITS_ROWS,
        )
        self.tape.add(
            "sample",
            t.SAMPLE,
            {
                t.SAMPLE_X: self.logits.values,
                t.SAMPLE_LD_X: self.logits.stride,
                t.SAMPLE_SIZE: self.arch.vocab_size,
                t.SAMPLE_BLOCK: self.logits_rows.block,
                t.SAMPLE_CODE: sampler_address(),
            },
            rows=t.LOGITS_ROWS,
        )

    def _matmul(
        self,
        name: str,
        linear: PackedLinear,
        rows_in: InputRows,
        fields: dict[int, Field],
        *,
        rows: int = t.TOKENS,
    ) -> None:
        lora = self._adapters.fields(linear)
        self.tape.add(
            f"{name}: shrink", self._arithmetic.shrink, rows_in.as_input() | lora, rows=rows
        )
        panels = linear.num_panels // (2 if fields[t.MODE] == t.GATE else 1)
        self.tape.add(
            name,
            self._arithmetic.matmul,
            rows_in.as_input()
            | self._arithmetic.fields
            | fields
            | lora
            | {
                t.W: linear.w,
                t.PANEL_BYTES: linear.panel_bytes,
                t.NUM_PANELS: linear.num_panels,
                t.PANELS_PER_CHUNK: max(
                    1, min(panels // MIN_CHUNKS, MAX_CHUNK_BYTES // linear.panel_bytes)
                ),
                t.W_SCALE: linear.scale,
                t.W_ZERO: linear.zero,
                t.NIBBLE_SCALE: linear.nibbles.scale if linear.nibbles else None,
                t.NIBBLE_ZERO: linear.nibbles.zero if linear.nibbles else None,
                t.BIAS: linear.bias,
                t.PANEL_SLICE: linear.panel_slice,
            },
            rows=rows,
        )

    def _norm(self, norm: RMSNorm, stream: Stream, *, name: str = "norm") -> None:
        self.tape.add(
            name,
            self._arithmetic.norm,
            self._norm_fields(norm, stream.x) | self.hidden_in.as_input(),
            rows=stream.rows,
        )

    def _norm_fields(self, norm: RMSNorm, rows: FloatRows) -> dict[int, Field]:
        return {
            t.NORM_X: rows.values,
            t.NORM_LD_X: rows.stride,
            t.NORM_WEIGHT: self._norm_weight(norm),
            t.NORM_OWN: self._adapters.norms.of(norm),
            t.NORM_SIZE: rows.size,
            t.NORM_PADDED: rows.padded,
            t.NORM_EPS: float(self.arch.norm_eps),
        }

    def _norm_weight(self, norm: RMSNorm) -> npt.NDArray[np.float32]:
        weight = self._arena.floats(padded(norm.size))
        weight[: norm.size] = norm.weight_D.numpy()
        return weight

    def _rope_table(
        self, rotary: torch.nn.Module, rope: Rope
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """Cosines and sines of every position, half as wide as they rotate: both halves are equal."""
        positions = torch.arange(self._sizes.max_positions)
        tables = []
        for values_T1R in rotary(positions, self._arithmetic.dtype):
            table = self._arena.floats(values_T1R.numel() // 2)
            table[:] = values_T1R[:, 0, : rope.size // 2].reshape(-1).float().numpy()
            tables.append(table)
        return tuple(tables)

    def _rounded(self, value: float) -> float:
        return float(torch.tensor(value, dtype=self._arithmetic.dtype))

    def _pack(self, linear: Linear, sizes: list[int]) -> PackedLinear:
        """Pack a linear and let go of the unpacked weight: memory holds the model once."""
        packed = pack_linear(linear, sizes, self._arena)
        del linear.weight
        return packed
