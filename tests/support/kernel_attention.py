"""One layer's queries, keys and values on random heads: compiled, and by the references.

Shape legend: T tokens of the step, N heads, K key heads, H head size, D features of all heads,
C slots of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lorry_server.engine.plan import StepPlan
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.pack import padded
from lorry_server.kernels.int8_attention import TOKEN_GROUP, Int8Slots, int8_attention
from lorry_server.kernels.paged_attention import QueryGroup, group_queries
from lorry_server.layers.norm import RMSNorm
from lorry_server.layers.rotary import Rope, RotaryEmbedding, rotate
from lorry_server.runner.compiled.byte_cache import ByteCache
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_tape import KernelTape, Span, plan_of, read_floats, same_bits

CPU = torch.device("cpu")
NUM_BLOCKS = 48
MAX_TOKENS = 128
MAX_POSITIONS = 768
STALE_BYTE = 99  # what slots that nobody wrote hold, with a scale of NaN
EPS = 1e-5


@dataclass(frozen=True)
class Heads:
    """What a model says of its heads."""

    kv_heads: int = 2
    group: int = 3
    size: int = 32
    rope_size: int = 0
    has_norms: bool = False
    window: int = 0
    softcap: float = 0.0
    block_size: int = 16

    @property
    def num(self) -> int:
        return self.kv_heads * self.group

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.size)


class Layer:
    """One layer's queries, keys and values for tokens that lie anywhere, in both forms."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.norms = [_norm(heads.size, seed) for seed in (1, 2)]
        self.rope = RotaryEmbedding(Rope(theta=100.0, size=heads.rope_size), device=CPU)
        slots = NUM_BLOCKS * heads.block_size
        self.keys, self.values = (
            Int8Slots(
                torch.full((heads.kv_heads, slots, heads.size), STALE_BYTE, dtype=torch.int8),
                torch.full((heads.kv_heads, slots), torch.nan),
            )
            for _ in range(2)
        )
        self._tape = KernelTape(max_positions=MAX_POSITIONS, block_size=heads.block_size)
        self.cache = ByteCache(
            self._tape.arena,
            num_layers=1,
            num_kv_heads=heads.kv_heads,
            head_dim=heads.size,
            num_blocks=NUM_BLOCKS,
            block_size=heads.block_size,
        )
        fields = self.cache.fields(0)
        for offset, stale in (
            (t.KEYS, STALE_BYTE + 128),
            (t.VALUES, STALE_BYTE),
            (t.KEY_SCALES, np.nan),
            (t.VALUE_SCALES, np.nan),
        ):
            array = fields[offset]
            assert isinstance(array, np.ndarray)
            array[:] = stale
        self._write_tape()

    def _write_tape(self) -> None:
        heads, tape, tokens = self.heads, self._tape, MAX_TOKENS
        parts = [heads.num * heads.size, heads.kv_heads * heads.size, heads.kv_heads * heads.size]
        self.starts = np.cumsum([0, *(padded(part) for part in parts)])
        self.qkv = tape.floats(torch.zeros(tokens, int(self.starts[-1])))
        self.attended = tape.floats(torch.zeros(tokens, parts[0]))
        queries = tokens * heads.num
        self.q8 = tape.arena.bytes(queries * padded(heads.size))
        self.q8_scale = tape.arena.floats(queries + 16)
        self.q8_start = tape.arena.ints(queries + 16)
        fields: dict[int, Field] = {
            t.QKV: self.qkv.values,
            t.LD_QKV: self.qkv.stride,
            t.Q_OFFSET: 0,
            t.K_OFFSET: 4 * int(self.starts[1]),
            t.V_OFFSET: 4 * int(self.starts[2]),
            t.NUM_KV_HEADS: heads.kv_heads,
            t.GROUP_SIZE: heads.group,
            t.HEAD_DIM: heads.size,
            t.HEAD_PADDED: padded(heads.size),
            t.ATTENTION_SCALE: heads.scale,
            t.ATTENTION_SOFTCAP: heads.softcap,
            t.WINDOW: heads.window,
            t.Q8: self.q8,
            t.Q8_SCALE: self.q8_scale,
            t.Q8_START: self.q8_start,
            **self.cache.fields(0),
        }
        if heads.rope_size:
            tables = []
            for values_T1R in self.rope(torch.arange(MAX_POSITIONS), torch.float32):
                table = tape.arena.floats(values_T1R.numel() // 2)
                table[:] = values_T1R[:, 0, : heads.rope_size // 2].reshape(-1).numpy()
                tables.append(table)
            fields |= {t.ROPE_SIZE: heads.rope_size, t.COS: tables[0], t.SIN: tables[1]}
        if heads.has_norms:
            q_norm, k_norm = (tape.padded_floats(norm.weight_D) for norm in self.norms)
            fields |= {t.Q_NORM: q_norm, t.K_NORM: k_norm, t.HEAD_EPS: EPS}
        tape.add(t.KEYS_AND_VALUES, fields)
        target: dict[int, Field] = {
            t.ATTENDED: self.attended.values,
            t.LD_ATTENDED: self.attended.stride,
        }
        tape.add(t.ATTEND, fields | target)

    def random_heads(self, num_tokens: int, *, seed: int = 0) -> Tensor:
        """What the fused product gives, `T, N + 2 K, H`: queries, then keys, then values."""
        generator = torch.Generator().manual_seed(seed)
        num_heads = self.heads.num + 2 * self.heads.kv_heads
        x_TNH = 2 * torch.randn(num_tokens, num_heads, self.heads.size, generator=generator)
        x_TNH[::7, :, 0] *= 50
        return x_TNH

    def compute(
        self, spans: Sequence[Span], qkv_TNH: Tensor, *, num_threads: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Attend with heads as of `random_heads`: compiled, and as it must be, both `T, D`."""
        plan = plan_of(spans, block_size=self.heads.block_size)
        self._fill(qkv_TNH)
        self._tape.compute(plan, num_threads=num_threads)
        expected_TNH = self._expected(plan, qkv_TNH)
        return read_floats(self.attended, plan.num_tokens), expected_TNH.flatten(1)

    def queries(self, qkv_TNH: Tensor, positions_T: Tensor) -> Tensor:
        """The queries that attend: normed and rotated."""
        return self._prepare(qkv_TNH[:, : self.heads.num], self.norms[0], positions_T)

    def _expected(self, plan: StepPlan, qkv_TNH: Tensor) -> Tensor:
        heads = self.heads
        _, k_TKH, v_TKH = torch.split(qkv_TNH, [heads.num, heads.kv_heads, heads.kv_heads], dim=1)
        positions_T = torch.from_numpy(plan.positions_T)
        slots_T = torch.from_numpy(plan.slot_mapping_T.astype(np.int64))
        self.keys.write(self._prepare(k_TKH, self.norms[1], positions_T), slots_T)
        self.values.write(v_TKH, slots_T)
        return int8_attention(
            self.queries(qkv_TNH, positions_T),
            self.keys,
            self.values,
            self._groups(plan),
            scale=heads.scale,
            window=heads.window or None,
            softcap=heads.softcap or None,
        )

    def _groups(self, plan: StepPlan) -> list[QueryGroup]:
        return group_queries(
            positions_T=plan.positions_T,
            query_starts_S1=plan.query_starts_S1,
            context_lens_S=plan.context_lens_S,
            block_tables_SM=plan.block_tables_SM,
            block_size=self.heads.block_size,
            device=CPU,
            context_multiple=TOKEN_GROUP,
        )

    def _fill(self, qkv_TNH: Tensor) -> None:
        heads = self.heads
        rows = self.qkv.values.reshape(-1, self.qkv.padded)[: len(qkv_TNH)]
        first = 0
        for start, num in zip(
            self.starts, (heads.num, heads.kv_heads, heads.kv_heads), strict=False
        ):
            part_TD = qkv_TNH[:, first : first + num].flatten(1)
            rows[:, start : start + num * heads.size] = part_TD.numpy()
            first += num

    def _prepare(self, x_TNH: Tensor, norm: RMSNorm, positions_T: Tensor) -> Tensor:
        if self.heads.has_norms:
            x_TNH = norm(x_TNH)
        if self.heads.rope_size:
            x_TNH = rotate(x_TNH, *self.rope(positions_T, torch.float32))
        return x_TNH

    def cached(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, their scales, values and theirs, read back in the form of the reference."""
        heads, fields = self.heads, self.cache.fields(0)
        size, shape = padded(heads.size), (NUM_BLOCKS, heads.kv_heads)
        runs = heads.block_size // 16
        count = NUM_BLOCKS * heads.kv_heads * heads.block_size
        arrays = [fields[at] for at in (t.KEYS, t.KEY_SCALES, t.VALUES, t.VALUE_SCALES)]
        keys, key_scales, values, value_scales = (
            np.asarray(array)[: count * (size if index % 2 == 0 else 1)]
            for index, array in enumerate(arrays)
        )
        # runs of 16 tokens, 4 dimensions, tokens, dimensions
        k = (keys ^ 128).view(np.int8).reshape(*shape, runs, size // 4, 16, 4)
        k = k.transpose(1, 0, 2, 4, 3, 5).reshape(heads.kv_heads, -1, size)
        # runs of 4 tokens, dimensions, tokens
        v = values.view(np.int8).reshape(*shape, 4 * runs, size, 4)
        v = v.transpose(1, 0, 2, 4, 3).reshape(heads.kv_heads, -1, size)
        scales = [
            array.reshape(*shape, heads.block_size).transpose(1, 0, 2).reshape(heads.kv_heads, -1)
            for array in (key_scales, value_scales)
        ]
        k_KCH, v_KCH, k_KC, v_KC = (
            torch.from_numpy(array.copy())
            for array in (k[..., : heads.size], v[..., : heads.size], *scales)
        )
        return k_KCH, k_KC, v_KCH, v_KC

    def assert_cache_equals(self) -> None:
        """Every byte and every scale of the cache, those of slots that nobody wrote as well."""
        k_KCH, k_KC, v_KCH, v_KC = self.cached()
        assert torch.equal(k_KCH, self.keys.x_KCH)
        assert torch.equal(v_KCH, self.values.x_KCH)
        assert same_bits(k_KC, self.keys.scale_KC)
        assert same_bits(v_KC, self.values.scale_KC)


def _norm(size: int, seed: int) -> RMSNorm:
    norm = RMSNorm("norm", size=size, eps=EPS, offset=0.0, device=CPU)
    norm.load_(torch.randn(size, generator=torch.Generator().manual_seed(seed)))
    return norm
