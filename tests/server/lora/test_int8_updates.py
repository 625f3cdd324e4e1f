from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorry_server.kernels.affine_matmul import affine_matmul
from lorry_server.kernels.lora import TokenSegment
from lorry_server.layers.linear import Linear
from lorry_server.lora.adapter import LoraWeights
from lorry_server.lora.float_updates import FloatUpdate
from lorry_server.lora.int8_updates import Int8Update
from lorry_server.lora.pool import AdapterPool
from lorry_server.quantization.registry import scheme_named
from tests.support.made_adapters import made_adapter

CPU = torch.device("cpu")
SIZES = {"q": 40, "k": 24, "v": 8}
NUM_INPUTS = 50


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_linear(quantization: str = "int8") -> Linear:
    linear = Linear(
        "qkv",
        in_features=NUM_INPUTS,
        parts=list(SIZES.items()),
        bias=True,
        scheme=scheme_named(quantization),
        dtype=torch.float32,
        device=CPU,
    )
    linear.weight.load_rows_(0, random(sum(SIZES.values()), NUM_INPUTS, seed=0))
    assert linear.bias_O is not None
    linear.bias_O.copy_(random(sum(SIZES.values()), seed=1))
    return linear


def update(name: str, rank: int, *, seed: int) -> LoraWeights:
    return LoraWeights(
        random(rank, NUM_INPUTS, seed=seed), random(SIZES[name], rank, seed=seed + 1) / rank
    )


MODULES = {"q": update("q", 9, seed=10), "v": update("v", 40, seed=20)}  # k is not targeted


def make_pool(linear: Linear) -> AdapterPool:
    """Two adapters: `MODULES` in slot 0, and one for k alone in slot 4."""
    pool = AdapterPool([linear], dtype=torch.float32, device=CPU)
    pool.attach(0, pool.prepare(made_adapter(MODULES)))
    pool.attach(4, pool.prepare(made_adapter({"k": update("k", 4, seed=30)})))
    return pool


def updates_of(pool: AdapterPool, slot: int) -> list[Int8Update]:
    updates = [one for one in pool.slots["qkv"].by_slot[slot] if isinstance(one, Int8Update)]
    assert len(updates) == len(pool.slots["qkv"].by_slot[slot])
    return updates


def test_updates_are_two_affine_products_added_after_the_bias() -> None:
    linear = make_linear()
    x_TI = random(7, NUM_INPUTS, seed=2)
    expected_TO = linear(x_TI)
    pool = make_pool(linear)
    pool.routing.segments = (TokenSegment(None, 0),)

    y_TO = linear(x_TI)

    q, v = updates_of(pool, 0)
    for one, columns in ((q, slice(0, 40)), (v, slice(64, 72))):
        t_TR = affine_matmul(x_TI, one.a.q_OI, one.a.scale_O, one.a.zero_O)
        expected_TO[:, columns] += affine_matmul(t_TR, one.b.q_OI, one.b.scale_O, one.b.zero_O)
    assert torch.equal(y_TO, expected_TO)


def test_an_adapter_keeps_exactly_its_own_ranks_and_slices() -> None:
    pool = make_pool(make_linear())

    def shapes(one: Int8Update) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        return one.part.name, tuple(one.a.q_OI.shape), tuple(one.b.q_OI.shape)

    assert [shapes(one) for one in updates_of(pool, 0)] == [
        ("q", (9, NUM_INPUTS), (40, 9)),
        ("v", (40, NUM_INPUTS), (8, 40)),
    ]
    assert [shapes(one) for one in updates_of(pool, 4)] == [("k", (4, NUM_INPUTS), (24, 4))]


def test_slices_lie_in_their_order_whatever_the_order_of_loading() -> None:
    pool = AdapterPool([make_linear()], dtype=torch.float32, device=CPU)

    pool.attach(0, pool.prepare(made_adapter(dict(reversed(MODULES.items())))))

    assert [one.part.name for one in updates_of(pool, 0)] == ["q", "v"]


def test_the_bytes_of_an_adapter_are_those_of_its_tensors() -> None:
    padded_inputs, padded_ranks = 64, {"q": 32, "v": 64}  # groups of 32
    scales = 8  # a float32 scale and zero point for each row

    prepared = AdapterPool([make_linear()], dtype=torch.float32, device=CPU).prepare(
        made_adapter(MODULES)
    )

    assert prepared.num_bytes == sum(
        MODULES[name].rank * (padded_inputs + scales) + SIZES[name] * (padded_ranks[name] + scales)
        for name in MODULES
    )


def test_tokens_of_other_adapters_and_of_none_are_left_alone() -> None:
    linear = make_linear()
    x_TI = random(9, NUM_INPUTS, seed=2)
    base_TO = linear(x_TI)
    pool = make_pool(linear)
    alone = {}
    for slot in (0, 4):
        pool.routing.segments = (TokenSegment(None, slot),)
        alone[slot] = linear(x_TI)

    pool.routing.segments = (
        TokenSegment(torch.tensor([1, 4, 8]), 0),
        TokenSegment(torch.tensor([0, 7]), 4),
    )
    y_TO = linear(x_TI)

    assert torch.equal(y_TO[[1, 4, 8]], alone[0][[1, 4, 8]])
    assert torch.equal(y_TO[[0, 7]], alone[4][[0, 7]])
    assert torch.equal(y_TO[[2, 3, 5, 6]], base_TO[[2, 3, 5, 6]])
    assert torch.equal(alone[4][:, :40], base_TO[:, :40])
    assert torch.equal(alone[4][:, 64:], base_TO[:, 64:])


def test_int8_updates_are_near_the_float_ones() -> None:
    linear = make_linear()
    x_TI = random(9, NUM_INPUTS, seed=2)
    base_TO = linear(x_TI)
    pool = make_pool(linear)
    pool.routing.segments = (TokenSegment(None, 0),)

    added_TO = linear(x_TI) - base_TO

    for name, columns in (("q", slice(0, 40)), ("v", slice(64, 72))):
        exact_TO = x_TI @ MODULES[name].a_RI.T @ MODULES[name].b_OR.T
        assert (added_TO[:, columns] - exact_TO).norm() / exact_TO.norm() < 0.02


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [("none", FloatUpdate), ("int8", Int8Update), ("int4", Int8Update), ("zero-one", Int8Update)],
)
def test_adapters_are_int8_where_the_base_is_quantized(quantization: str, kind: type) -> None:
    pool = make_pool(make_linear(quantization))

    assert {type(one) for one in pool.slots["qkv"].by_slot[0]} == {kind}


def test_a_linear_is_the_base_again_once_its_adapters_are_detached() -> None:
    linear = make_linear()
    x_TI = random(3, NUM_INPUTS, seed=2)
    base_TO = linear(x_TI)
    pool = make_pool(linear)

    pool.detach(0)
    pool.routing.segments = (TokenSegment(None, 0),)

    assert torch.equal(linear(x_TI), base_TO)
