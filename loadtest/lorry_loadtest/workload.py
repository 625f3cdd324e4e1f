"""What is sent: every request follows from the seed and its place in the run's one stream."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lorry_loadtest.adapter_mix import AdapterMix
from lorry_loadtest.canaries import Canary
from lorry_loadtest.conversation import Conversation
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.prompts import MultiTurn, PromptSource, words
from lorry_loadtest.routes import Route
from lorry_loadtest.traces import MOONCAKE_BLOCK_TOKENS, Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several kinds of request; `share` is its weight among them."""

    share: float
    prompts: PromptSource
    lengths: Lengths

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"the share of a kind of request is {self.share:g}, not > 0")


@dataclass(frozen=True, slots=True)
class Workload:
    """The seeded source of requests. The same seed, stream and index always give the same request,
    in whatever process and order they are asked for.

    Each level of a sweep is another `stream`, so that none repeats the prompts of another and finds
    them in the server's prefix cache; so is, by its `source`, each user class of a locustfile.
    `canary_share` of the requests, evenly spread, are `canaries` in
    turn. With `variants` each request is one of these kinds, instead of `prompts` and `max_tokens`.
    With a `trace` the lengths are its requests', times `length_scale`. `patience_s` is the
    mean of the exponential time after which users leave.
    """

    seed: int
    adapters: AdapterMix
    prompts: PromptSource
    max_tokens: Lengths
    route: Route = "completions"
    stream: int = 0
    source: int = 0
    canaries: tuple[Canary, ...] = ()
    canary_share: float = 0.0
    patience_s: float | None = None
    variants: tuple[Variant, ...] = ()
    trace: Trace | None = None
    length_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.canary_share < 1.0:
            raise ValueError(f"the canary share is {self.canary_share}, not from 0 to less than 1")
        if self.patience_s is not None and not self.patience_s > 0:
            raise ValueError(f"the patience is {self.patience_s:g} s, not > 0")
        if not self.length_scale > 0:
            raise ValueError(f"the length scale is {self.length_scale:g}, not > 0")

    def request_at(self, index: int, *, times_ns: Sequence[int] | None = None) -> PlannedRequest:
        """`times_ns` are the arrivals of the stream, None in a closed loop."""
        at_ns = None if times_ns is None else times_ns[index]
        if self.canaries:
            turn = int(index * self.canary_share)
            if int((index + 1) * self.canary_share) > turn:
                return self.canary_at(
                    self.canaries[turn % len(self.canaries)], index=index, at_ns=at_ns
                )
        # text is hashed with SHA-512: the same in every process
        rng = random.Random(f"{self._key}/{index}")
        patience_s = None if self.patience_s is None else rng.expovariate(1 / self.patience_s)
        if self.trace is not None:
            return self._of_trace(rng, index, times_ns=times_ns, patience_s=patience_s)
        adapter = self.adapters.draw(rng, index=index, at_ns=at_ns)
        prompts, lengths = self._kind(rng)
        if isinstance(prompts, MultiTurn):
            conversation = prompts.conversation_at(index)
            adapter = self._adapter_of(
                conversation, name=str(conversation.number), times_ns=times_ns
            )
        max_tokens = lengths.draw(rng)
        drawn = prompts.draw(rng, seed=self._key, index=index)
        return PlannedRequest(
            index=index,
            at_ns=at_ns,
            adapter=adapter,
            max_tokens=max_tokens,
            prompt=drawn.text,
            history=drawn.history,
            patience_s=patience_s,
            route=self.route,
        )

    def _adapter_of(
        self, conversation: Conversation, *, name: str, times_ns: Sequence[int] | None
    ) -> str | None:
        """Drawn once for all requests of a conversation, when its first one arrives."""
        return self.adapters.draw(
            random.Random(f"{self._key}/session/{name}/adapter"),
            index=conversation.first_index,
            at_ns=None if times_ns is None else times_ns[conversation.first_index],
            number=conversation.number,
        )

    def canary_at(self, canary: Canary, *, index: int, at_ns: int | None = None) -> PlannedRequest:
        return PlannedRequest(
            index=index,
            at_ns=at_ns,
            adapter=canary.adapter,
            max_tokens=canary.max_tokens,
            prompt=canary.prompt,
            canary=canary.name,
            route=self.route,
        )

    def _kind(self, rng: random.Random) -> tuple[PromptSource, Lengths]:
        if not self.variants:
            return self.prompts, self.max_tokens
        shares = [variant.share for variant in self.variants]
        (chosen,) = rng.choices(self.variants, shares)
        return chosen.prompts, chosen.lengths

    @property
    def _key(self) -> str:
        key = f"{self.seed}/{self.stream}"
        return f"{key}/{self.source}" if self.source else key

    @property
    def arrival_seed(self) -> str:
        """The same for all levels, so that a load that is repeated is the same load."""
        return f"{self.seed}/{self.source}" if self.source else f"{self.seed}"

    def _of_trace(
        self,
        rng: random.Random,
        index: int,
        *,
        times_ns: Sequence[int] | None,
        patience_s: float | None,
    ) -> PlannedRequest:
        assert self.trace is not None
        request = self.trace.requests[index % len(self.trace.requests)]
        at_ns = None if times_ns is None else times_ns[index]
        if request.session is None:
            adapter = self.adapters.draw(rng, index=index, at_ns=at_ns)
        else:
            conversation = self.trace.sessions[request.session]
            adapter = self._adapter_of(conversation, name=request.session, times_ns=times_ns)
        return PlannedRequest(
            index=index,
            at_ns=at_ns,
            adapter=adapter,
            max_tokens=max(1, round(request.num_output_tokens * self.length_scale)),
            prompt=self._trace_prompt(rng, request),
            patience_s=patience_s,
            route=self.route,
        )

    def _trace_prompt(self, rng: random.Random, request: TraceRequest) -> str:
        """A word per token; a block that the trace names has the same words wherever it stands."""
        num_words = max(1, round(request.num_prompt_tokens * self.length_scale))
        per_block = max(1, round(MOONCAKE_BLOCK_TOKENS * self.length_scale))
        pieces: list[str] = []
        for block_id in request.block_ids:
            take = min(per_block, num_words - per_block * len(pieces))
            if take <= 0:
                break
            pieces.append(words(random.Random(f"{self.seed}/block/{block_id}"), take))
        left = num_words - sum(len(piece.split()) for piece in pieces)
        if left > 0:
            pieces.append(words(rng, left))
        return " ".join(pieces)
