"""What ends a batch early or limits it: time, files, cancellation, a strict interpreter."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


async def repeat(request: ReceivedRequest, reply: Reply) -> None:
    await reply.json(200, completion(f"<{request.json['prompt']}>", finish_reason="stop"))


async def test_a_deadline_is_that_of_each_item() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "stuck":
            await reply.client_left()
        else:
            await repeat(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        results = await client.map(
            ["a", "stuck", "b"], deadline=0.3, concurrency=1, on_error="return"
        )

    assert [type(result).__name__ for result in results] == [
        "Generation",
        "DeadlineExceeded",
        "Generation",
    ]


async def test_a_whole_batch_can_have_a_time_limit_and_keeps_what_has_finished() -> None:
    all_left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "stuck":
            await reply.client_left()
            all_left.set()
        else:
            await repeat(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(["a", "b", "stuck"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await run
        await all_left.wait()

    assert [result.text for result in run.results] == ["<a>", "<b>"]


IN_A_STRICT_INTERPRETER = """
import asyncio, sys
sys.path.insert(0, ".")
import lorry
from tests.support.fake_llm_server import FakeLLMServer, completion

async def script(request, reply):
    prompt = request.json["prompt"]
    if prompt == "stuck":
        await reply.client_left()
    elif prompt == "bad":
        await reply.json(400, {"error": {"message": "bad"}})
    else:
        await reply.json(200, completion(prompt, finish_reason="stop"))

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # the import of aiohttp is no fault here
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        print(len(await client.map(str(i) for i in range(50))))
        async with client.map(["a", "stuck", "b"]) as run:
            print((await anext(run)).text)
        try:
            await client.map(["stuck", "bad", "stuck"])
        except lorry.BadRequest:
            print("bad")
        async with client.map(["stuck", "bad", "stuck"]):
            pass
        async with client.map(["bad", "stuck"]) as failing:
            waiting = asyncio.ensure_future(anext(failing))
            await asyncio.sleep(0.1)
            waiting.cancel()

asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_way_out_of_a_run_leaves_a_warning_behind(loop: str) -> None:
    code = IN_A_STRICT_INTERPRETER
    if loop == "uvloop":
        code = "import uvloop\n" + code.replace("asyncio.run(", "uvloop.run(")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stderr, done.stdout.split()) == ("", ["50", "a", "bad"])


async def test_two_thousand_calls_at_once_make_no_error_of_the_clients_own() -> None:
    num_calls = 2_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * num_calls + 200  # both ends of every connection are in this process
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the hard limit of open files is {hard}")
    all_are_here = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == num_calls:
            all_are_here.set()
        await all_are_here.wait()
        await repeat(request, reply)

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
            run = client.map((str(i) for i in range(num_calls)), concurrency=num_calls)
            results = await run
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert [result.text for result in results] == [f"<{i}>" for i in range(num_calls)]
    assert run.stats().max_in_flight == num_calls


async def test_a_shortage_of_files_names_the_limit_to_raise() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:  # accepts nobody
        client = lorry.AsyncClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        async with client:
            next_file = os.open(os.devnull, os.O_RDONLY)
            os.close(next_file)
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_file + 8, hard))
            try:
                with pytest.raises(lorry.ConnectError, match="ulimit -n"):
                    await client.map(map(str, range(64)), concurrency=64)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
