"""`RowRunner`: a `FakeRunner` whose tokens repeat, and depend on all that a logits row says.

Most of its tokens follow from the two before them, so a prompt lookup guesses many of them. Every
fifth, about, is a hash of the whole row: tokens, adapters, seed, position, history, biases. A row
that is not what the same row of an engine without drafts would be is found out by its token or by
its logprob.
"""

from __future__ import annotations

import zlib

import numpy as np

from lorry_server.engine.plan import NON_FINITE, OK, SAMPLE, LogitsPlan, StepPlan, StepResult
from tests.support.fake_runner import FakeRunner

VOCAB_SIZE = 10  # the end of sequence, 7, comes now and then


class RowRunner(FakeRunner):
    """Checks that a row's position and history are those of its tokens."""

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        self.before_step(len(self.plans))
        if len(self.plans) in self._fail_at:
            raise RuntimeError("the device has failed")
        self._write(plan)
        logits = plan.logits
        num_rows = len(logits.rows_N)
        num_top = max(0, int(logits.num_logprobs_N.max(initial=-1)))
        token_ids_N = np.zeros(num_rows, np.int32)
        logprobs_N = np.zeros(num_rows, np.float32)
        status_N = np.full(num_rows, OK, np.int32)
        for row in range(num_rows):
            position = int(plan.positions_T[logits.rows_N[row]])
            tokens, adapters = self._read(plan, int(logits.sequences_N[row]), position + 1)
            assert logits.positions_N[row] == position + 1
            digest = row_digest(logits, row, tokens, adapters)
            logprobs_N[row] = -(digest % 1000) / 100
            if self._corrupt in tokens:
                status_N[row] = NON_FINITE
            elif logits.targets_N[row] == SAMPLE:
                token_ids_N[row] = choose(logits, row, tokens, digest)
            else:
                token_ids_N[row] = logits.targets_N[row]
        top_ids_NK = np.tile(np.arange(num_top, dtype=np.int32), (num_rows, 1))
        return StepResult(
            token_ids_N=token_ids_N,
            logprobs_N=logprobs_N,
            top_ids_NK=top_ids_NK + token_ids_N[:, None],
            top_logprobs_NK=np.tile(logprobs_N[:, None], (1, num_top)),
            status_N=status_N,
        )


def row_digest(logits: LogitsPlan, row: int, tokens: list[int], adapters: list[int]) -> int:
    """A hash of everything that may decide the row's token."""
    history = logits.history_ids[
        logits.history_starts_N1[row] : logits.history_starts_N1[row + 1]
    ].tolist()
    has_penalties = (
        logits.presence_penalty_N[row] != 0
        or logits.frequency_penalty_N[row] != 0
        or logits.repetition_penalty_N[row] != 1
    )
    is_sample = logits.targets_N[row] == SAMPLE
    assert history == (tokens if has_penalties and is_sample else [])
    return zlib.crc32(
        repr(
            (
                tokens,
                adapters,
                history,
                biases(logits, row),
                int(logits.seeds_N[row]),
                int(logits.positions_N[row]),
                float(logits.temperature_N[row]),
                int(logits.prompt_lens_N[row]),
                int(logits.num_logprobs_N[row]),
            )
        ).encode()
    )


def biases(logits: LogitsPlan, row: int) -> dict[int, float]:
    here = slice(logits.bias_starts_N1[row], logits.bias_starts_N1[row + 1])
    return dict(zip(logits.bias_ids[here].tolist(), logits.bias_values[here].tolist(), strict=True))


def choose(logits: LogitsPlan, row: int, tokens: list[int], digest: int) -> int:
    """The row's token; never one that a bias forbids."""
    is_surprise = digest % 5 == 0
    token = digest // 5 if is_surprise else zlib.crc32(bytes(t % 256 for t in tokens[-2:]))
    forbidden = {token for token, bias in biases(logits, row).items() if bias == -np.inf}
    return next(
        candidate
        for candidate in ((token + shift) % VOCAB_SIZE for shift in range(VOCAB_SIZE))
        if candidate not in forbidden
    )
