"""Drafts on a runner without a model: the same outputs, in fewer steps, at nobody's cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry_server.engine.drafting import MAX_SEQUENCES_WITH_DRAFTS
from lorry_server.engine.engine import Engine
from lorry_server.engine.outputs import FinishReason, TokenLogprobs, TokenOutput
from lorry_server.engine.plan import NON_FINITE, SAMPLE, StepPlan, StepResult
from lorry_server.engine.request import Request
from tests.support.engines import EOS, generated, make_engine, request, run_to_end
from tests.support.fake_runner import FakeRunner
from tests.support.row_runner import VOCAB_SIZE, RowRunner

BLOCK_SIZE = 4
CYCLE = [1, 2, 3, 4, 5, 6]


def cycling_runner(**options: object) -> FakeRunner:
    """Goes round CYCLE for ever: every guess is right once it has been round."""
    after = {token: CYCLE[(index + 1) % len(CYCLE)] for index, token in enumerate(CYCLE)}
    return FakeRunner(
        num_blocks=32,
        block_size=BLOCK_SIZE,
        choose=lambda tokens, _: after[tokens[-1]],
        **options,  # type: ignore[arg-type] # names are checked by the call itself
    )


def lying_runner() -> FakeRunner:
    """Its tokens never repeat what followed before: every guess is wrong."""
    return FakeRunner(
        num_blocks=64,
        block_size=BLOCK_SIZE,
        # Pairs come again, each time with another token after them.
        choose=lambda tokens, _: (1, 2, 100 + len(tokens))[len(tokens) % 3],
    )


class CorruptingRunner(FakeRunner):
    """Rows are not finite where `is_corrupt` says so of the tokens up to them."""

    def __init__(
        self,
        is_corrupt: Callable[[list[int]], bool],
        *,
        choose: Callable[[list[int], list[int]], int],
    ) -> None:
        super().__init__(num_blocks=32, block_size=BLOCK_SIZE, choose=choose)
        self._is_corrupt = is_corrupt

    def run(self, plan: StepPlan) -> StepResult:
        result = super().run(plan)
        for row, token in enumerate(plan.logits.rows_N):
            length = int(plan.positions_T[token]) + 1
            tokens, _ = self._read(plan, int(plan.logits.sequences_N[row]), length)
            if self._is_corrupt(tokens):
                result.status_N[row] = NON_FINITE
        return result


def sampled_rows(plan: StepPlan) -> list[int]:
    """How many rows each sequence of the step samples."""
    counts = Counter(plan.logits.sequences_N[plan.logits.targets_N == SAMPLE].tolist())
    return [counts[index] for index in range(plan.num_sequences)]


@dataclass
class Whole:
    """All that a request's reader sees of it, however it was cut into outputs."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[tuple[TokenLogprobs, ...]] = field(default_factory=list)
    end: tuple[FinishReason, int | None, str | None] | None = None

    @classmethod
    def of(cls, outputs: list[TokenOutput]) -> Whole:
        whole = cls()
        for output in outputs:
            assert whole.end is None, "nothing comes after the end"
            whole.token_ids += output.token_ids
            whole.logprobs += output.logprobs or ()
            if output.prompt_logprobs is not None:
                whole.prompt_logprobs.append(output.prompt_logprobs)
            if output.finish_reason is not None:
                whole.end = (output.finish_reason, output.stop_token_id, output.error)
        return whole


def run_whole(engine: Engine, requests: list[Request], *, gap: int = 0) -> dict[str, Whole]:
    """Add a request every `gap` steps and run all to their ends."""
    outputs: dict[str, list[TokenOutput]] = {r.request_id: [] for r in requests}
    for new in requests:
        engine.add(new)
        for _ in range(gap):
            for output in engine.step():
                outputs[output.request_id].append(output)
            engine.check_integrity()
    for name, more in run_to_end(engine).items():
        outputs[name] += more
    return {name: Whole.of(list_) for name, list_ in outputs.items()}


def test_a_repeating_sequence_takes_fewer_steps_for_the_same_tokens() -> None:
    plain, plain_runner = make_engine(runner=cycling_runner())
    quick, quick_runner = make_engine(runner=cycling_runner(), speculate=4)
    for engine in (plain, quick):
        engine.add(request("a", CYCLE, max_tokens=30))

    expected, outputs = run_to_end(plain)["a"], run_to_end(quick)["a"]

    assert generated(outputs) == generated(expected)
    assert len(plain_runner.plans) == 30
    assert len(quick_runner.plans) < 10
    assert max(len(output.token_ids) for output in outputs) == 5


def test_every_row_of_a_draft_is_sampled_behind_the_tokens_before_it() -> None:
    engine, runner = make_engine(runner=cycling_runner(), speculate=4)
    engine.add(request("a", [*CYCLE, 1, 2], max_tokens=30))
    engine.step()
    engine.step()

    plan = runner.plans[1]
    assert plan.token_ids_T.tolist() == [3, 4, 5, 6, 1]
    assert plan.positions_T.tolist() == [8, 9, 10, 11, 12]
    assert plan.logits.rows_N.tolist() == [0, 1, 2, 3, 4]
    assert plan.logits.positions_N.tolist() == [9, 10, 11, 12, 13]
    assert plan.context_lens_S.tolist() == [13]


def test_tokens_after_a_wrong_guess_are_dropped_and_written_anew() -> None:
    runner = FakeRunner(
        num_blocks=32,
        block_size=BLOCK_SIZE,
        choose=lambda tokens, _: 50 if len(tokens) == 10 else CYCLE[len(tokens) % 6],
    )
    engine, _ = make_engine(runner=runner, speculate=4)
    engine.add(request("a", [*CYCLE, 1, 2], max_tokens=8))

    outputs = run_to_end(engine)["a"]

    assert [output.token_ids for output in outputs[:2]] == [(3,), (4, 50)]
    assert generated(outputs) == [3, 4, 50, 6, 1, 2, 3, 4]


def test_nothing_comes_after_a_stop_token_inside_a_right_guess() -> None:
    engine, _ = make_engine(runner=cycling_runner(), speculate=4)
    engine.add(request("a", [*CYCLE, 1, 2], max_tokens=30, stop_token_ids=(5,)))

    outputs = run_to_end(engine)["a"]

    assert generated(outputs) == [3, 4, 5]
    assert outputs[-1].finish_reason is FinishReason.STOP_TOKEN
    assert outputs[-1].stop_token_id == 5


def test_a_draft_never_reaches_past_max_tokens_or_the_longest_sequence() -> None:
    engine, runner = make_engine(runner=cycling_runner(), speculate=16, max_model_len=20)
    engine.add(request("short", CYCLE * 2, max_tokens=3))
    engine.add(request("long", CYCLE * 2, max_tokens=100))

    outputs = run_to_end(engine)

    assert len(generated(outputs["short"])) == 3
    assert len(generated(outputs["long"])) == 20 - 12
    assert all(output[-1].finish_reason is FinishReason.LENGTH for output in outputs.values())
    assert max(int(plan.logits.positions_N.max()) for plan in runner.plans) == 19


def test_counters_tell_drafts_their_tokens_and_the_steps_that_they_spared() -> None:
    engine, runner = make_engine(runner=cycling_runner(), speculate=4)
    engine.add(request("a", [*CYCLE, 1, 2], max_tokens=30))
    run_to_end(engine)

    counters = engine.scheduler.counters
    drafts = [rows - 1 for plan in runner.plans for rows in sampled_rows(plan) if rows > 1]
    assert counters.num_drafts == len(drafts)
    assert counters.num_draft_tokens == sum(drafts)
    assert counters.num_accepted_tokens == 30 - len(runner.plans)
    assert engine.generation_tokens == 30


def test_drafts_that_keep_failing_become_shorter_and_rarer() -> None:
    engine, runner = make_engine(
        runner=lying_runner(), speculate=8, num_blocks=64, max_model_len=250
    )
    engine.add(request("a", [100, 1, 2], max_tokens=200))

    run_to_end(engine)

    rows = [sampled_rows(plan)[0] for plan in runner.plans]
    assert len(rows) == 200
    assert max(rows) == 5
    assert max(rows[30:]) <= 2
    assert sum(row > 1 for row in rows[30:]) <= 6


def test_drafts_that_succeed_grow_to_the_greatest_length() -> None:
    engine, runner = make_engine(
        runner=cycling_runner(), speculate=12, max_num_batched_tokens=64, max_model_len=128
    )
    engine.add(request("a", CYCLE * 2, max_tokens=60))

    run_to_end(engine)

    assert [sampled_rows(plan)[0] for plan in runner.plans][:5] == [1, 5, 9, 13, 13]


def test_many_sequences_at_once_get_no_drafts() -> None:
    engine, runner = make_engine(runner=cycling_runner(), speculate=4)
    for index in range(MAX_SEQUENCES_WITH_DRAFTS + 1):
        engine.add(request(str(index), CYCLE * 2, max_tokens=10 if index else 20))

    run_to_end(engine)

    for plan in runner.plans:
        if plan.num_sequences > MAX_SEQUENCES_WITH_DRAFTS:
            assert max(sampled_rows(plan)) <= 1
    assert max(max(sampled_rows(plan)) for plan in runner.plans) == 5


def test_drafts_take_only_what_is_left_of_the_budget() -> None:
    engine, runner = make_engine(
        runner=cycling_runner(), speculate=8, max_num_seqs=4, max_num_batched_tokens=8
    )
    for index in range(3):
        engine.add(request(str(index), CYCLE * 2, max_tokens=15))
    engine.add(request("prefill", CYCLE * 3, max_tokens=2))

    run_to_end(engine)

    assert max(plan.num_tokens for plan in runner.plans) == 8
    assert any(max(sampled_rows(plan), default=0) > 1 for plan in runner.plans)


def test_a_draft_is_cut_to_the_blocks_that_are_free_and_preempts_nobody() -> None:
    engine, runner = make_engine(runner=cycling_runner(), speculate=8, num_blocks=7)
    engine.add(request("a", CYCLE * 2, max_tokens=12))  # six blocks in all
    engine.step()
    assert engine.scheduler.pool.num_available == 4
    taken = engine.scheduler.pool.allocate(3)

    engine.step()

    # Position 12 opens the only free block; three guesses fill it.
    assert sampled_rows(runner.plans[1]) == [4]
    assert engine.scheduler.counters.num_preemptions == 0
    engine.scheduler.pool.release(taken)


def test_blocks_of_refused_guesses_go_back_after_the_step() -> None:
    runner = FakeRunner(num_blocks=32, block_size=BLOCK_SIZE, choose=lambda tokens, _: 50)
    engine, _ = make_engine(runner=runner, speculate=4)
    engine.add(request("a", [50, 50, 1, 2, 3, 50, 50], max_tokens=9))
    engine.step()

    engine.step()

    assert max(sampled_rows(runner.plans[1])) == 5
    (sequence,) = engine.sequences()
    assert sequence.num_computed_tokens == sequence.num_tokens - 1
    assert engine.scheduler.pool.num_used == sequence.num_blocks_for(sequence.num_computed_tokens)
    engine.check_integrity()


def test_the_prefix_cache_never_holds_a_refused_guess() -> None:
    """What one request leaves behind gives the next one the tokens that it would compute."""
    prompt = [3, 4, 3, 4, 3, 4, 3]
    plain, _ = make_engine(runner=RowRunner(num_blocks=64, block_size=4), num_blocks=64)
    quick, _ = make_engine(
        runner=RowRunner(num_blocks=64, block_size=4), num_blocks=64, speculate=6
    )
    first = run_whole(plain, [request("a", prompt, max_tokens=40)])["a"].token_ids
    followers = [request(f"b{n}", [*prompt, *first[:n]], max_tokens=8) for n in range(0, 40, 3)]
    expected = run_whole(plain, followers, gap=9)

    run_whole(quick, [request("a", prompt, max_tokens=40)])

    assert run_whole(quick, followers, gap=9) == expected
    assert quick.scheduler.counters.num_accepted_tokens > 0
    assert quick.scheduler.counters.prefix_cache_hits > 0


def test_prompt_logprobs_are_the_same_and_their_requests_get_no_drafts() -> None:
    options = {"max_tokens": 40, "num_logprobs": 1}
    wanted = request("a", CYCLE * 2, num_prompt_logprobs=1, **options)
    plain, _ = make_engine(runner=RowRunner(num_blocks=32, block_size=4))
    quick, _ = make_engine(runner=RowRunner(num_blocks=32, block_size=4), speculate=4)

    assert run_whole(quick, [wanted]) == run_whole(plain, [wanted])
    assert quick.scheduler.counters.num_drafts == 0
    run_whole(quick, [request("without", CYCLE * 2, **options)])
    assert quick.scheduler.counters.num_drafts > 0


def test_a_corrupt_row_behind_a_wrong_guess_harms_nobody() -> None:
    runner = CorruptingRunner(
        lambda tokens: tokens[12:13] == [1],  # only in the guess: 50 comes there
        choose=lambda tokens, _: 50 if len(tokens) == 12 else CYCLE[len(tokens) % 6],
    )
    engine, _ = make_engine(runner=runner, speculate=4)
    engine.add(request("a", [*CYCLE, *CYCLE[:5]], max_tokens=4))

    outputs = run_to_end(engine)["a"]

    assert max(max(sampled_rows(plan)) for plan in runner.plans) > 2
    assert generated(outputs) == [6, 50, 2, 3]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert engine.corrupted_requests == 0


def test_tokens_before_a_corrupt_row_go_out_with_the_error() -> None:
    asked = request("a", CYCLE * 2, max_tokens=20, num_logprobs=0)
    wholes = []
    for speculate in (0, 4):
        runner = CorruptingRunner(
            lambda tokens: len(tokens) == 15, choose=lambda tokens, _: CYCLE[len(tokens) % 6]
        )
        engine, _ = make_engine(runner=runner, speculate=speculate)
        wholes.append(run_whole(engine, [asked])["a"])
        assert engine.scheduler.pool.num_cached <= 3

    assert [whole.token_ids for whole in wholes] == [[1, 2, 3]] * 2
    assert wholes[0].end == wholes[1].end
    assert wholes[1].end is not None
    assert wholes[1].end[0] is FinishReason.ERROR


def test_a_failed_step_with_drafts_gives_everything_back() -> None:
    runner = cycling_runner(fail_at=frozenset({2}))
    engine, _ = make_engine(runner=runner, speculate=4)
    engine.add(request("a", CYCLE * 2, max_tokens=30))
    engine.step()

    with pytest.raises(Exception, match="step failed"):
        engine.step()

    engine.check_integrity()
    assert engine.scheduler.pool.num_used == 0


def test_an_abort_between_drafts_gives_everything_back() -> None:
    engine, _ = make_engine(runner=cycling_runner(), speculate=4)
    engine.add(request("a", CYCLE * 2, max_tokens=30))
    for _ in range(3):
        engine.step()

    engine.abort("a")

    engine.check_integrity()
    assert engine.scheduler.pool.num_used == 0


token_ids = st.integers(0, VOCAB_SIZE - 1)
requests = st.fixed_dictionaries(
    {
        "prompt": st.lists(token_ids, min_size=1, max_size=14),
        "adapter": st.sampled_from([None, None, "x", "y"]),
        "max_tokens": st.integers(1, 26),
        "min_tokens": st.sampled_from([0, 0, 0, 2, 9]),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.sampled_from([(), (), (3,), (5, 8)]),
        "temperature": st.sampled_from([0.0, 0.8]),
        "seed": st.integers(0, 3),
        "presence_penalty": st.sampled_from([0.0, 0.0, 0.5]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.2]),
        "logit_bias": st.sampled_from([(), ((2, 1.5),)]),
        "num_logprobs": st.sampled_from([None, 0, 2]),
        "num_prompt_logprobs": st.sampled_from([None, None, None, 1]),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    wanted=st.lists(requests, min_size=1, max_size=7),
    gap=st.integers(0, 6),
    speculate=st.integers(1, 16),
    num_blocks=st.integers(10, 24),
    max_num_seqs=st.integers(1, 6),
    budget=st.integers(6, 30),
    prefix_caching=st.booleans(),
)
def test_speculation_changes_no_output_of_any_request(
    wanted: list[dict[str, object]],
    gap: int,
    speculate: int,
    num_blocks: int,
    max_num_seqs: int,
    budget: int,
    prefix_caching: bool,
) -> None:
    """Random requests and arrivals, with a cache that may be too small for all of them."""
    asked = [request(str(index), **options) for index, options in enumerate(wanted)]  # type: ignore[arg-type] # the dictionary's values have their fields' types
    wholes, runners = [], []
    for most in (0, speculate):
        engine, runner = make_engine(
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=40,
            prefix_caching=prefix_caching,
            adapters={"x": 4, "y": 8},
            runner=RowRunner(num_blocks=num_blocks, block_size=BLOCK_SIZE),
            speculate=most,
        )
        wholes.append(run_whole(engine, asked, gap=gap))
        runners.append(runner)
        assert engine.scheduler.pool.num_used == 0

    assert wholes[1] == wholes[0]
    for plan in runners[1].plans:
        assert plan.num_tokens <= budget
        if plan.num_sequences > MAX_SEQUENCES_WITH_DRAFTS:
            assert max(sampled_rows(plan)) <= 1


def test_the_end_of_sequence_token_is_foreseen_like_any_other() -> None:
    after = {1: 2, 2: 3, 3: EOS, EOS: 1}
    runner = FakeRunner(num_blocks=32, block_size=4, choose=lambda tokens, _: after[tokens[-1]])
    engine, _ = make_engine(runner=runner, speculate=4)
    engine.add(request("a", [1, 2, 3, EOS, 1], max_tokens=9, ignore_eos=False))

    outputs = run_to_end(engine)["a"]

    assert generated(outputs) == [2, 3, EOS]
    assert outputs[-1].finish_reason is FinishReason.EOS
    assert len(outputs) == 2
