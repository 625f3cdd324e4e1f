"""The event loop of the tests: what its clock counts, and what it does not."""

from __future__ import annotations

import asyncio
import socket
import time

from tests.support.patient_loop import GRAIN_S, PatientLoop


async def test_tests_run_on_it() -> None:
    assert isinstance(asyncio.get_running_loop(), PatientLoop)


def test_time_in_which_the_process_does_not_get_on_is_not_counted() -> None:
    async def stopped_for_a_while() -> float:
        before = asyncio.get_running_loop().time()
        time.sleep(0.2)  # noqa: ASYNC251 - as if the process had been stopped
        return asyncio.get_running_loop().time() - before

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert 0 < runner.run(stopped_for_a_while()) <= GRAIN_S + 1e-9


def test_what_is_ready_goes_before_a_limit_of_time_however_long_the_process_was_stopped() -> None:
    async def answered_in_time() -> str:
        reader, writer = await asyncio.open_connection(sock=theirs)
        ours.sendall(b"here")
        time.sleep(0.2)  # noqa: ASYNC251 - as if the process had been stopped
        async with asyncio.timeout(0.1):
            answer = await reader.readexactly(4)
            time.sleep(0.2)  # noqa: ASYNC251
            await asyncio.sleep(0)
        writer.close()
        return answer.decode()

    ours, theirs = socket.socketpair()
    with ours, asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert runner.run(answered_in_time()) == "here"


def test_no_timer_goes_off_before_its_time() -> None:
    async def took_s() -> float:
        time.sleep(0.02)  # noqa: ASYNC251 - a turn of which a grain is counted
        began = time.monotonic()
        await asyncio.sleep(0.05)
        return time.monotonic() - began

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert runner.run(took_s()) >= 0.05 - 1e-6
