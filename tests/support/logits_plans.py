"""Plans of logits rows, to sample without a model."""

from __future__ import annotations

import numpy as np

from lorry_server.engine.plan import SAMPLE, LogitsPlan


def make_plan(num_rows: int, **columns: object) -> LogitsPlan:
    """Greedy rows without logprobs, but for the columns given as one value or one per row."""

    def column(name: str, default: float, dtype: type) -> np.ndarray:
        return np.broadcast_to(np.array(columns.get(name, default), dtype), num_rows).copy()

    histories = columns.get("histories") or [[]] * num_rows
    biases = columns.get("biases") or [{}] * num_rows
    assert isinstance(histories, list)
    assert isinstance(biases, list)
    return LogitsPlan(
        rows_N=np.arange(num_rows, dtype=np.int32),
        sequences_N=np.arange(num_rows, dtype=np.int32),
        targets_N=column("targets", SAMPLE, np.int32),
        positions_N=column("positions", 5, np.int64),
        seeds_N=column("seeds", 0, np.int64),
        temperature_N=column("temperature", 0, np.float32),
        top_p_N=column("top_p", 1, np.float32),
        top_k_N=column("top_k", 0, np.int32),
        min_p_N=column("min_p", 0, np.float32),
        typical_p_N=column("typical_p", 1, np.float32),
        presence_penalty_N=column("presence", 0, np.float32),
        frequency_penalty_N=column("frequency", 0, np.float32),
        repetition_penalty_N=column("repetition", 1, np.float32),
        history_starts_N1=np.cumsum([0, *map(len, histories)]).astype(np.int32),
        history_ids=np.array([i for h in histories for i in h], np.int32),
        prompt_lens_N=column("prompt_lens", 0, np.int32),
        bias_starts_N1=np.cumsum([0, *map(len, biases)]).astype(np.int32),
        bias_ids=np.array([i for b in biases for i in b], np.int32),
        bias_values=np.array([v for b in biases for v in b.values()], np.float32),
        num_logprobs_N=column("num_logprobs", -1, np.int32),
    )
