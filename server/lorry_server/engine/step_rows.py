"""`StepRows`: the logits rows of a step and their results, as Python numbers.

Reading one element of an array costs as much as listing a dozen; a step reads all of them.
"""

from __future__ import annotations

from lorry_server.engine.outputs import TokenLogprobs
from lorry_server.engine.plan import StepPlan, StepResult


class StepRows:
    """Rows are numbered as in the plan; those of one sequence stand together, in its order."""

    def __init__(self, plan: StepPlan, result: StepResult) -> None:
        self.token_ids: list[int] = result.token_ids_N.tolist()
        self.statuses: list[int] = result.status_N.tolist()
        self.targets: list[int] = plan.logits.targets_N.tolist()
        self._sequences: list[int] = plan.logits.sequences_N.tolist()
        self._num_logprobs: list[int] = plan.logits.num_logprobs_N.tolist()
        self._result = result

    def by_sequence(self, num_sequences: int) -> list[range]:
        """The rows of each sequence of the step; empty for one whose prefill goes on."""
        ranges = []
        start = 0
        num_rows = len(self._sequences)
        for index in range(num_sequences):
            stop = start
            while stop < num_rows and self._sequences[stop] == index:
                stop += 1
            ranges.append(range(start, stop))
            start = stop
        assert start == num_rows, "the plan's rows are in the order of its sequences"
        return ranges

    def logprobs(self, row: int) -> TokenLogprobs | None:
        """What the row's request wanted of its logprobs; None where it wanted none."""
        num_logprobs = self._num_logprobs[row]
        if num_logprobs < 0:
            return None
        top = zip(
            self._result.top_ids_NK[row, :num_logprobs].tolist(),
            self._result.top_logprobs_NK[row, :num_logprobs].tolist(),
            strict=True,
        )
        return TokenLogprobs(self.token_ids[row], float(self._result.logprobs_N[row]), tuple(top))
