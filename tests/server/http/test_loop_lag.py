from __future__ import annotations

import asyncio

from lorry_server.http.loop_lag import watch_loop_lag


async def test_lag_is_observed_again_and_again_until_the_watch_is_cancelled():
    lags_s: list[float] = []
    three_times = asyncio.Event()

    def observe(lag_s: float) -> None:
        lags_s.append(lag_s)
        if len(lags_s) == 3:
            three_times.set()

    watch = asyncio.create_task(watch_loop_lag(observe))
    await three_times.wait()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)

    assert watch.cancelled()
    assert min(lags_s) >= 0
