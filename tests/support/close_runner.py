"""Runners for models of floats: one that compares logits within a bound, one that keeps their bits.

Shape legend: N logits rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.engine.plan import StepPlan, StepResult
from lorry_server.runner.compiled.runner import CompiledRunner
from lorry_server.runner.reference import ReferenceRunner
from tests.support.tiny_engine import RecordingModel
from tests.support.twin_engine import TwinRunner


class CloseRunner(TwinRunner):
    """Insists on logits that differ by at most `atol` or, of the rows' spread, `spread`.

    The spread of a row is the largest distance of its logits from their mean. With `same_tokens` the tokens
    must be equal as well.
    """

    def __init__(
        self,
        reference: ReferenceRunner,
        compiled: CompiledRunner,
        model: RecordingModel,
        *,
        atol: float = 0.0,
        spread: float = 0.0,
        same_tokens: bool,
    ) -> None:
        super().__init__(reference, compiled, model)
        self._atol = atol
        self._spread = spread
        self._same_tokens = same_tokens
        self.worst = 0.0  # the largest difference as a part of what is allowed

    def compare(self, expected: StepResult, result: StepResult) -> None:
        np.testing.assert_array_equal(result.status_N, expected.status_N)
        if not self.model.logits:
            return
        expected_NV = torch.stack(self.model.logits).numpy()
        logits_NV = self.compiled.logits_NV[: len(expected_NV)]
        centred_NV = expected_NV - expected_NV.mean(axis=1, keepdims=True)
        allowed_N = self._atol + self._spread * np.abs(centred_NV).max(axis=1)
        difference_N = np.abs(logits_NV - expected_NV).max(axis=1)
        self.worst = max(self.worst, float((difference_N / allowed_N).max()))
        assert (difference_N <= allowed_N).all(), f"{self.worst} of the bound"
        if self._same_tokens:
            np.testing.assert_array_equal(result.token_ids_N, expected.token_ids_N)


class RecordingRunner(TwinRunner):
    """Runs the compiled runner only and keeps each row of logits."""

    def __init__(
        self, reference: ReferenceRunner, compiled: CompiledRunner, model: RecordingModel
    ) -> None:
        super().__init__(reference, compiled, model)
        self.rows: list[npt.NDArray[np.float32]] = []

    def run(self, plan: StepPlan) -> StepResult:
        result = self.compiled.run(plan)
        self.rows.extend(self.compiled.logits_NV[: len(plan.logits.rows_N)].copy())
        return result
