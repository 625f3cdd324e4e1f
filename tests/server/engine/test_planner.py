"""The arrays of a plan: what a compiled runner may take for granted."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from lorry_server.engine.plan import StepPlan
from tests.support.engines import make_engine, request, run_to_end
from tests.support.row_runner import VOCAB_SIZE, RowRunner

NUM_BLOCKS = 24


def arrays(message: Any) -> dict[str, tuple[str, Any]]:
    """Every array of a plan with the name of its declared type."""
    found: dict[str, tuple[str, Any]] = {}
    for field in fields(message):
        value = getattr(message, field.name)
        if is_dataclass(value):
            found |= arrays(value)
        else:
            found[field.name] = (str(field.type), value)
    return found


def plans_of_mixed_steps() -> list[StepPlan]:
    """Prefills in chunks, decodes, drafts, adapters and none, and every option of a row."""
    rng = random.Random(5)
    engine, runner = make_engine(
        num_blocks=NUM_BLOCKS,
        max_model_len=40,
        adapters={"x": 4, "y": 8},
        runner=RowRunner(num_blocks=NUM_BLOCKS, block_size=4),
        speculate=4,
    )
    for index in range(16):
        engine.add(
            request(
                str(index),
                [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 20))],
                adapter=rng.choice([None, "x", "y"]),
                max_tokens=rng.randint(1, 18),
                min_tokens=rng.choice([0, 3]),
                seed=rng.randrange(2**62),
                presence_penalty=rng.choice([0.0, 0.4]),
                logit_bias=rng.choice([(), ((1, 2.0),)]),
                num_logprobs=rng.choice([None, 0, 3]),
                num_prompt_logprobs=rng.choice([None, None, 2]),
            )
        )
        engine.step()
    run_to_end(engine)
    return runner.plans


def test_every_array_has_its_declared_type_and_lies_in_memory_in_one_piece() -> None:
    dtypes = {"Int32": np.int32, "Int64": np.int64, "Float32": np.float32}

    for plan in plans_of_mixed_steps():
        for name, (declared, array) in arrays(plan).items():
            assert array.dtype == dtypes[declared], name
            assert array.flags.c_contiguous, name
            assert array.flags.writeable, name


def test_rows_segments_and_tables_fit_each_other() -> None:
    for plan in plans_of_mixed_steps():
        logits, segments = plan.logits, plan.segments
        num_rows, num_sequences = len(logits.rows_N), plan.num_sequences
        for name, (_, array) in arrays(logits).items():
            if name.endswith("_N"):
                assert len(array) == num_rows, name
            elif name.endswith("_N1"):
                assert len(array) == num_rows + 1, name
        assert sorted(logits.sequences_N.tolist()) == logits.sequences_N.tolist()
        assert (np.diff(logits.rows_N) > 0).all()
        assert plan.query_starts_S1.tolist()[-1] == plan.num_tokens
        assert plan.block_tables_SM.shape[0] == num_sequences
        assert len(set(plan.slot_mapping_T.tolist())) == plan.num_tokens, "a slot is written twice"
        assert segments.starts_G1[-1] == len(segments.tokens_P)
        for sequence in range(num_sequences):
            here = slice(plan.query_starts_S1[sequence], plan.query_starts_S1[sequence + 1])
            positions = plan.positions_T[here]
            blocks = plan.block_tables_SM[sequence][positions // 4]
            assert plan.slot_mapping_T[here].tolist() == (blocks * 4 + positions % 4).tolist()
            assert plan.context_lens_S[sequence] == positions[-1] + 1
