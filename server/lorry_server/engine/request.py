"""What crosses from the HTTP side to the engine: immutable, picklable, validated at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field

# Below this temperature sampling is greedy; dividing logits by less would overflow float32.
GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence's tokens are chosen and when it ends.

    The edge has checked every value: finite, in range, token ids inside the logits width.
    Stop *strings* are not here: they are found in text, by whoever reads the stream.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    typical_p: float = 1.0  # 1: off
    seed: int = 0  # the noise depends on (seed, position, token) and nothing else
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_logprobs: int | None = None  # None: none; 0: the chosen token's; k: and the k best
    num_prompt_logprobs: int | None = None  # the same, for every prompt token but the first

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate. `adapter` is an adapter's content digest, None for the base."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    adapter: str | None = None
    arrival_s: float = field(default=0.0)  # time.perf_counter() when the edge received it
    deadline_s: float | None = None  # on the same clock; after it nothing more is computed
