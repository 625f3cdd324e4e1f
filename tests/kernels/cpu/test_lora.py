"""Compiled adapters on a product, beside the pool of the reference.

Shape legend: T tokens of the step, N logits rows, I input features, R ranks, O output features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lorry_server.engine.plan import AdapterSegments
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.lora import TokenSegment
from lorry_server.layers.linear import Linear
from lorry_server.lora.adapter import LoraWeights
from lorry_server.lora.pool import AdapterPool
from lorry_server.runner.compiled.adapter_table import AdapterTable
from lorry_server.runner.compiled.int8_packer import Int8Packer
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_product import (
    pack,
    product_fields,
    random_linear,
    random_rows,
    results_of,
    unpadded,
)
from tests.support.kernel_tape import (
    KernelTape,
    needs_kernels,
    plan_of_rows,
    read_floats,
    same_bits,
)
from tests.support.made_adapters import made_adapter

pytestmark = needs_kernels
SIZES = [70, 33, 64]  # of the modules that are fused
IN_FEATURES = 80
# The adapters, and what rank each has in which module.
UNLIKE: list[dict[str, int]] = [
    {"0": 4, "2": 4},
    {"0": 16, "1": 16, "2": 16},
    {"1": 1},
    {"0": 7, "1": 64, "2": 17},
    {"2": 40},
    {"0": 40, "1": 17},
]


class Adapted:
    """A linear with adapters, to be computed both ways."""

    def __init__(
        self, adapters: Sequence[Mapping[str, int]], *, scheme: str = "int8", max_rows: int = 64
    ) -> None:
        self.linear: Linear = random_linear(IN_FEATURES, SIZES, scheme=scheme, bias=True)
        self.pool = AdapterPool([self.linear], dtype=torch.float32, device=torch.device("cpu"))
        self.tape = KernelTape(max_rows=max_rows)
        self.table = AdapterTable(
            [self.linear], Int8Packer(), self.tape.arena, max_rows=max_rows, max_slots=len(adapters)
        )
        self.packed = pack(self.linear, self.tape.arena)
        self.lora = self.table.fields(self.packed)
        generator = torch.Generator().manual_seed(1)
        for slot, ranks in enumerate(adapters):
            modules = {
                name: LoraWeights(
                    a_RI=torch.randn(rank, IN_FEATURES, generator=generator),
                    b_OR=torch.randn(SIZES[int(name)], rank, generator=generator),
                )
                for name, rank in ranks.items()
            }
            adapter = made_adapter(modules)
            self.pool.attach(slot, self.pool.prepare(adapter))
            self.table.attach(slot, self.table.prepare(adapter))

    def expected(self, x_NI: Tensor, rows_of: Mapping[int, list[int]]) -> Tensor:
        """The reference's product; `rows_of` has the rows of each adapter."""
        self.pool.routing.segments = tuple(
            TokenSegment(torch.tensor(rows), slot=adapter)
            for adapter, rows in rows_of.items()
            if rows
        )
        y_NO: Tensor = self.linear(x_NI)
        return y_NO

    def compiled(
        self,
        x_NI: Tensor,
        tokens_of: Mapping[int, list[int]],
        *,
        logits_rows: Sequence[int] | None = None,
        num_tokens: int | None = None,
        num_threads: int = 2,
    ) -> Tensor:
        """The product over tokens; over `logits_rows`, whose inputs `x_NI` are, if given."""
        tape, packed, lora = self.tape, self.packed, self.lora
        num_rows = len(x_NI)
        over = t.TOKENS if logits_rows is None else t.LOGITS_ROWS
        rows = tape.quantized(x_NI, rows=over)
        y = results_of(packed, tape, num_rows)
        tape.add(t.SHRINK, rows.as_input() | lora, rows=over)
        target: dict[int, Field] = {t.MODE: t.STORE, t.Y: y.values, t.LD_Y: y.stride}
        tape.add(t.MATMUL, product_fields(packed, rows) | lora | target, rows=over)
        plan = plan_of_rows(num_tokens or num_rows)
        tape.compute(
            plan,
            rows=logits_rows or (),
            adapters=self.table.slots_of_tokens(segments_of(tokens_of), plan.token_ids_T),
            num_threads=num_threads,
        )
        return unpadded(packed, read_floats(y, num_rows))


def segments_of(tokens_of: Mapping[int, list[int]]) -> AdapterSegments:
    """One segment for each adapter, of no tokens where it has none."""
    lengths = [len(tokens) for tokens in tokens_of.values()]
    return AdapterSegments(
        tokens_P=np.array([token for tokens in tokens_of.values() for token in tokens], np.int32),
        starts_G1=np.cumsum([0, *lengths]).astype(np.int32),
        slots_G=np.array(list(tokens_of), np.int32),
    )


def spread_over(
    num_tokens: int, *, seed: int, num_adapters: int = len(UNLIKE)
) -> dict[int, list[int]]:
    """Tokens in runs of one to nine of the same adapter, or of none."""
    generator = np.random.default_rng(seed)
    tokens_of: dict[int, list[int]] = {index: [] for index in range(num_adapters)}
    token = 0
    while token < num_tokens:
        stop = min(num_tokens, token + int(generator.integers(1, 10)))
        adapter = int(generator.integers(-1, num_adapters))
        if adapter >= 0:
            tokens_of[adapter] += range(token, stop)
        token = stop
    return tokens_of


@pytest.mark.parametrize("rank", [1, 3, 4, 7, 15, 16, 17, 31, 32, 33, 40, 48, 49, 64])
@pytest.mark.parametrize("module", ["0", "1", "2"])
def test_every_rank_in_every_module_has_the_bits_of_the_reference(module: str, rank: int) -> None:
    adapted = Adapted([{module: rank}])
    x_TI = random_rows(9, IN_FEATURES, seed=rank)
    tokens_of = {0: [1, 2, 5]}

    y_TO = adapted.compiled(x_TI, tokens_of)

    assert same_bits(y_TO, adapted.expected(x_TI, tokens_of))


@pytest.mark.parametrize("scheme", ["int8", "zero-one", "int4"])
@pytest.mark.parametrize("num_tokens", [1, 2, 6, 7, 13, 32, 33, 64])
def test_unlike_adapters_in_one_step_have_the_bits_of_the_reference(
    num_tokens: int, scheme: str
) -> None:
    adapted = Adapted(UNLIKE, scheme=scheme)
    x_TI = random_rows(num_tokens, IN_FEATURES, seed=num_tokens)
    tokens_of = spread_over(num_tokens, seed=num_tokens)

    y_TO = adapted.compiled(x_TI, tokens_of, num_threads=1 + num_tokens % 3)

    assert same_bits(y_TO, adapted.expected(x_TI, tokens_of))


def test_tokens_without_an_adapter_have_the_bits_of_the_base() -> None:
    adapted = Adapted(UNLIKE)
    x_TI = random_rows(12, IN_FEATURES, seed=1)
    base_TO = adapted.expected(x_TI, {})

    y_TO = adapted.compiled(x_TI, {0: [], 1: [4, 5], 2: [], 3: [], 4: [], 5: []})

    others = [token for token in range(12) if token not in (4, 5)]
    assert same_bits(y_TO[others], base_TO[others])
    assert not same_bits(y_TO[4:6], base_TO[4:6])


def test_segments_without_tokens_change_nothing() -> None:
    adapted = Adapted(UNLIKE)
    x_TI = random_rows(12, IN_FEATURES, seed=1)

    y_TO = adapted.compiled(x_TI, {index: [] for index in range(len(UNLIKE))})

    assert same_bits(y_TO, adapted.expected(x_TI, {}))


def test_a_step_without_segments_has_no_adapters() -> None:
    adapted = Adapted(UNLIKE)

    assert adapted.table.slots_of_tokens(segments_of({}), np.zeros(5, np.int32)) is None


def test_a_module_that_an_adapter_misses_is_the_base() -> None:
    adapted = Adapted([{"0": 16, "2": 4}])
    x_TI = random_rows(8, IN_FEATURES, seed=2)
    base_TO = adapted.expected(x_TI, {})

    y_TO = adapted.compiled(x_TI, {0: list(range(8))})

    assert same_bits(y_TO[:, 70:103], base_TO[:, 70:103])


def test_logits_rows_have_the_adapter_of_their_token() -> None:
    adapted = Adapted(UNLIKE)
    tokens_of = spread_over(40, seed=3)
    rows = [39, 0, 7, 7, 12, 25]
    x_NI = random_rows(len(rows), IN_FEATURES, seed=4)
    rows_of = {
        adapter: [index for index, row in enumerate(rows) if row in tokens]
        for adapter, tokens in tokens_of.items()
    }

    y_NO = adapted.compiled(x_NI, tokens_of, logits_rows=rows, num_tokens=40)

    assert same_bits(y_NO, adapted.expected(x_NI, rows_of))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_stays_in_its_row(value: float) -> None:
    adapted = Adapted(UNLIKE)
    x_TI = random_rows(10, IN_FEATURES, seed=5)
    x_TI[4, 7] = value
    tokens_of = {1: [3, 4, 5], 3: [6, 7]}

    y_TO = adapted.compiled(x_TI, tokens_of)

    expected_TO = adapted.expected(x_TI, tokens_of)
    others = [token for token in range(10) if token != 4]
    assert same_bits(y_TO[others], expected_TO[others])
    assert not bool(y_TO[4].isfinite().any())
