"""`ScheduledServer`: a scheduler whose steps compute nothing, to see who is served when and how much."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.fairness import OUTPUT_TOKEN_COST, PROMPT_TOKEN_COST, SchedulingPolicy
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.engine.scheduler import ScheduledSequence, Scheduler
from lorry_server.engine.sequence import Flow, Sequence, SequenceStatus
from lorry_server.lora.residency import Residency
from tests.support.fake_adapters import FakeAdapters, fake_prepared

IDS_APART = 4096  # between the first ids of two prompts, so that they have nothing in common


class ScheduledServer:
    """Sequences that generate one token a step when they are up to date, until they have enough.

    It keeps books of its own, from what the steps computed: `served` is the cost of the tokens
    that each flow had computed for the first time; the other clocks are by `Sequence.order`, in
    tokens, as `now`. The scheduler's invariants are checked after every step.
    """

    def __init__(
        self,
        policy: SchedulingPolicy | None = None,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 4,
        max_num_batched_tokens: int = 16,
        prefix_caching: bool = True,
        room: int = 1000,
    ) -> None:
        """Adapters of one byte each, unless `offer` said otherwise; `room` bytes fit at once."""
        self.residency = Residency(FakeAdapters(), budget_bytes=room)
        self.scheduler = Scheduler(
            BlockPool(num_blocks),
            self.residency,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_caching=prefix_caching,
            policy=policy,
        )
        self.served: dict[Flow, float] = defaultdict(float)
        self.arrived_at: dict[int, int] = {}
        self.admitted: list[Sequence] = []  # in order of first admission
        self.admitted_at: dict[int, int] = {}
        self.finished_at: dict[int, int] = {}
        self.num_steps = 0
        self._block_size = block_size
        self._reached: Counter[int] = Counter()  # tokens that were computed, or found, before

    @property
    def now(self) -> int:
        return self.scheduler.num_served_tokens

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running)

    def offer(self, adapter: str, *, num_bytes: int = 1) -> None:
        self.residency.offer(fake_prepared(adapter, num_bytes=num_bytes))

    def add(
        self, flow: Flow, *, prompt: int = 4, outputs: int = 4, first_id: int | None = None
    ) -> Sequence:
        """A request of `prompt` and `outputs` tokens; those with one `first_id` share prompts."""
        order = len(self.arrived_at)
        if flow is not None:
            self.offer(flow)
        start = order * IDS_APART if first_id is None else first_id
        ids = tuple(range(start, start + prompt))
        request = Request(str(order), ids, SamplingParams(max_tokens=outputs), adapter=flow)
        sequence = Sequence(request, order=order, block_size=self._block_size)
        self.arrived_at[order] = self.now
        self.scheduler.add(sequence)
        return sequence

    def served_since(self, before: Mapping[Flow, float]) -> dict[Flow, float]:
        """What each flow was served since a copy of `served` was made."""
        return {flow: cost - before.get(flow, 0.0) for flow, cost in self.served.items()}

    def abort(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        self.scheduler.check_integrity()

    def step(self) -> list[tuple[int, int]]:
        """Compute a step; the `order` and number of tokens of each sequence in it."""
        before = self.now
        scheduled = self.scheduler.schedule()
        self.num_steps += 1
        for item in scheduled:
            self._compute(item, before)
        self.scheduler.check_integrity()
        assert scheduled or not self.has_work, "somebody waits, and nobody is served"
        return [(item.sequence.order, item.num_tokens) for item in scheduled]

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()

    def run_to_end(self, *, max_steps: int = 100_000) -> None:
        for _ in range(max_steps):
            if not self.has_work:
                return
            self.step()
        raise AssertionError(f"there is still work after {max_steps} steps")

    def _compute(self, item: ScheduledSequence, before: int) -> None:
        sequence, order = item.sequence, item.sequence.order
        if order not in self.admitted_at:
            self.admitted.append(sequence)
            self.admitted_at[order] = before
        first = max(self._reached[order], sequence.num_computed_tokens)
        end = max(first, sequence.num_computed_tokens + item.num_tokens)
        num_prompt = min(end, sequence.num_prompt_tokens) - min(first, sequence.num_prompt_tokens)
        cost = PROMPT_TOKEN_COST * num_prompt + OUTPUT_TOKEN_COST * (end - first - num_prompt)
        self.served[sequence.flow] += cost
        self._reached[order] = end
        self.scheduler.mark_computed(item)
        if sequence.num_uncomputed_tokens > 0:
            return
        sequence.token_ids.append(0)
        if sequence.num_completion_tokens == sequence.request.sampling.max_tokens:
            self.scheduler.finish(sequence)
            self.finished_at[order] = self.now
            assert sequence.status is SequenceStatus.FINISHED
