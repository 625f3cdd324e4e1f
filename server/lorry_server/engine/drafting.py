"""`Drafter`: how long a draft each sequence gets, learnt from how its last ones fared.

A draft is a guess of a sequence's next tokens. A step computes it behind the sequence's last token,
samples at each of them, and keeps what agrees. While few sequences decode, a step is bound by
reading the weights, and more rows cost little; a draft that agrees spares whole steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lorry_server.engine.prompt_lookup import PromptLookup
from lorry_server.engine.sequence import Sequence

# With more sequences than these in a step, their own rows already share the reading of the weights;
# what a draft adds is arithmetic, of which most would be for tokens that are then thrown away.
MAX_SEQUENCES_WITH_DRAFTS = 4

FIRST_LENGTH = 4
MAX_PAUSE = 31  # tokens


@dataclass(slots=True)
class _History:
    """What is known of one sequence: its n-grams, and how its drafts fared."""

    length: int  # most tokens of its next draft
    lookup: PromptLookup = field(default_factory=PromptLookup)
    resume_at: int = 0  # no draft before the sequence has this many tokens
    num_misses: int = 0  # drafts in a row of which nothing was accepted


class Drafter:
    """Drafts of at most `max_draft_tokens` tokens, none past where `max_model_len` ends a sequence.

    The length of a sequence's drafts doubles when one is accepted whole, falls to one more than
    was accepted when not, and halves when nothing was. Misses in a row pause its drafts for 0, 1,
    3, ... `MAX_PAUSE` tokens. Requests for prompt logprobs get none.
    """

    def __init__(self, *, max_draft_tokens: int, max_model_len: int) -> None:
        assert max_draft_tokens >= 1
        self._max_draft_tokens = max_draft_tokens
        self._max_model_len = max_model_len
        self._histories: dict[int, _History] = {}  # by `Sequence.order`

    def draft(self, sequence: Sequence, *, max_tokens: int) -> tuple[int, ...]:
        """Guess what follows `sequence`, whose last token alone is uncomputed."""
        params = sequence.request.sampling
        if params.num_prompt_logprobs is not None:
            return ()
        # A step yields one token more than was drafted.
        num_left = min(
            params.max_tokens - sequence.num_completion_tokens,
            self._max_model_len - sequence.num_tokens,
        )
        max_tokens = min(max_tokens, num_left - 1)
        if max_tokens <= 0:
            return ()
        history = self._histories.get(sequence.order)
        if history is None:
            history = _History(length=min(FIRST_LENGTH, self._max_draft_tokens))
            self._histories[sequence.order] = history
        if sequence.num_tokens < history.resume_at:
            return ()
        return tuple(
            history.lookup.propose(sequence.token_ids, max_tokens=min(max_tokens, history.length))
        )

    def settle(self, sequence: Sequence, *, num_drafted: int, num_accepted: int) -> None:
        """Learn from a draft; `sequence` already has the tokens that its step yielded."""
        history = self._histories[sequence.order]
        if num_accepted == 0:
            history.length = max(1, history.length // 2)
            pause = min(2**history.num_misses - 1, MAX_PAUSE)
            history.resume_at = sequence.num_tokens + pause
            history.num_misses = min(history.num_misses + 1, MAX_PAUSE.bit_length())
            return
        history.num_misses = 0
        if num_accepted < num_drafted:
            history.length = num_accepted + 1
        else:
            history.length = max(history.length, min(2 * num_drafted, self._max_draft_tokens))

    def forget(self, sequence: Sequence) -> None:
        """Drop what is known of a sequence that has ended."""
        self._histories.pop(sequence.order, None)

    @property
    def known_orders(self) -> frozenset[int]:
        """The `order` of every sequence with a history, for the invariants."""
        return frozenset(self._histories)
