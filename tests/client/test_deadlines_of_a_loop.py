"""One timer for all calls of a loop that have as much time."""

from __future__ import annotations

import asyncio

from lorry.deadlines import MAX_KEPT_LINES, Deadlines


class Clock:
    """A loop of which only the timers are used, and whose time the test tells."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_set = 0
        self._timers: list[_Timer] = []
        self._soon: list[object] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> _Timer:
        self.num_set += 1
        timer = _Timer(when, callback)
        self._timers.append(timer)
        return timer

    def call_soon(self, callback: object) -> None:
        self._soon.append(callback)

    @property
    def num_timers(self) -> int:
        return sum(not timer.is_cancelled for timer in self._timers)

    def go_to(self, now: float) -> None:
        while due := [t for t in self._timers if t.when <= now and not t.is_cancelled]:
            timer = min(due, key=lambda t: t.when)
            self._timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
            while self._soon:
                callback = self._soon.pop(0)
                assert callable(callback)
                callback()
        self.now = now


class _Timer:
    def __init__(self, when: float, callback: object) -> None:
        assert callable(callback)
        self.when = when
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Call:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ran_out_at: list[float] = []

    def run_out(self) -> None:
        self.ran_out_at.append(self._clock.now)


def deadlines_of(clock: Clock) -> Deadlines:
    return Deadlines(clock)  # type: ignore[arg-type]  # it needs two methods of a loop


def test_every_call_runs_out_at_its_own_time_and_once() -> None:
    clock = Clock()
    deadlines = deadlines_of(clock)
    calls = [Call(clock) for _ in range(6)]
    for k, call in enumerate(calls):
        clock.go_to(float(k))
        deadlines.join(call, began_at=clock.now, total_s=(10.0, 4.0)[k % 2])
    clock.go_to(100.0)

    assert [call.ran_out_at for call in calls] == [[10.0], [5.0], [12.0], [7.0], [14.0], [9.0]]
    assert clock.num_timers == 0


def test_thousands_of_calls_that_end_in_time_need_one_timer() -> None:
    clock = Clock()
    deadlines = deadlines_of(clock)
    for k in range(5_000):
        call = Call(clock)
        deadlines.join(call, began_at=clock.now, total_s=600.0)
        clock.go_to(k / 1_000)
        deadlines.leave(call, total_s=600.0)
        assert call.ran_out_at == []

    assert clock.num_set == 1


def test_the_timer_of_a_call_that_has_left_is_set_again_for_the_next() -> None:
    clock = Clock()
    deadlines = deadlines_of(clock)
    early, late = Call(clock), Call(clock)
    deadlines.join(early, began_at=0.0, total_s=10.0)
    clock.go_to(3.0)
    deadlines.join(late, began_at=3.0, total_s=10.0)
    deadlines.leave(early, total_s=10.0)
    clock.go_to(12.9)
    assert late.ran_out_at == []
    clock.go_to(20.0)

    assert (early.ran_out_at, late.ran_out_at) == ([], [13.0])


def test_as_many_totals_as_calls_leave_few_timers_behind() -> None:
    clock = Clock()
    deadlines = deadlines_of(clock)
    for k in range(1_000):
        call = Call(clock)
        deadlines.join(call, began_at=0.0, total_s=60.0 + k / 7)
        deadlines.leave(call, total_s=60.0 + k / 7)

    assert len(deadlines) <= MAX_KEPT_LINES
    assert clock.num_timers <= MAX_KEPT_LINES


async def test_in_a_real_loop_calls_run_out_in_order_whatever_goes_wrong_in_one() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    order: list[str] = []
    over = asyncio.Event()
    failures: list[str] = []
    loop.set_exception_handler(lambda _, context: failures.append(str(context["exception"])))

    class Failing:
        def run_out(self) -> None:
            raise OSError("its connection is broken")

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def run_out(self) -> None:
            order.append(self.name)
            if len(order) == 3:
                over.set()

    now = loop.time()
    deadlines.join(Failing(), began_at=now, total_s=0.02)
    for name, total_s in (("long", 0.06), ("short", 0.02), ("long too", 0.06)):
        deadlines.join(Named(name), began_at=now, total_s=total_s)
    await asyncio.wait_for(over.wait(), 5.0)

    assert order == ["short", "long", "long too"]
    assert failures == ["its connection is broken"]
