"""The blocking client: the same calls, results and errors without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lorry
from tests.support.fake_llm_server import ReceivedRequest, Reply, completion
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking
from tests.support.thread_lag import ThreadLag
from tests.support.tls_server import TlsServer

MESSAGES = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def server() -> Iterator[ServerInThread]:
    with ServerInThread(Talking()) as server:
        yield server


@pytest.fixture
def client(server: ServerInThread) -> Iterator[lorry.Client]:
    with lorry.Client(server.url, api_key="secret-key") as client:
        yield client


def test_a_generation_is_that_of_the_async_client(
    client: lorry.Client, server: ServerInThread
) -> None:
    generation = client.generate("Hi", max_tokens=5, adapter="pirate", tag=7)

    assert (generation.text, generation.tag) == ("pirate: Arr, matey!", 7)
    assert generation.timing.e2e is not None
    assert generation.server is not None
    (request,) = server.requests
    assert request.json == {
        "model": "pirate",
        "prompt": "Hi",
        "max_tokens": 5,
        "return_token_ids": True,
    }
    assert request.headers["authorization"] == "Bearer secret-key"
    assert request.headers["idempotency-key"] == request.headers["x-request-id"]
    assert request.headers["host"] == server.url.removeprefix("http://")


def test_a_deadline_is_told_to_the_server(client: lorry.Client, server: ServerInThread) -> None:
    client.generate("Hi", deadline=30)

    assert 20_000 < int(server.requests[0].headers["x-request-timeout-ms"]) <= 30_000


def test_a_stream_gives_tokens_with_stamps(client: lorry.Client) -> None:
    with client.stream("Hi") as stream:
        tokens = list(stream)

    assert [token.text for token in tokens] == ["base: Arr", ", ", "matey!"]
    assert [token.id for token in tokens] == [0, 1, 2]
    assert stream.partial.finish_reason == "stop"
    assert stream.partial.usage == lorry.Usage(3, 3)
    assert stream.timing.ttft is not None
    assert stream.timing.first_token_ns == tokens[0].t_ns


def test_text_and_final_read_to_the_end(client: lorry.Client) -> None:
    assert client.stream("Hi").text() == "base: Arr, matey!"
    assert list(client.chat.stream(MESSAGES).text_stream()) == ["base: Arr", ", ", "matey!"]
    assert client.chat(MESSAGES, adapter="pirate").text == "pirate: Arr, matey!"
    assert client.generate("Hi", token_times=True).tokens is not None


def test_calls_in_turn_share_one_connection(client: lorry.Client, server: ServerInThread) -> None:
    first = client.generate("Hi")
    streamed = client.stream("Hi").final()
    third = client.generate("Hi")

    assert server.server.num_connections == 1
    assert first.timing.reused_connection is False
    assert streamed.timing.reused_connection is True
    assert third.timing.reused_connection is True


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def answer_once(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("x", finish_reason="stop"))
        reply.cut()

    with ServerInThread(answer_once) as server, lorry.Client(server.url) as client:
        client.generate("Hi")
        (idle,) = client._session._pool._idle
        farewell, _, _ = select.select([idle.socket.fileno()], [], [], 20)
        assert farewell
        assert client.generate("Hi").timing.reused_connection is False


@pytest.mark.parametrize("head", ["connection: close\r\ncontent-length: ", "x-length: "])
def test_a_body_that_ends_with_its_connection_is_whole(head: str) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        body = b'{"id":"","created":1,"model":"m","choices":[{"index":0,"text":"whole"}]}'
        await reply.raw(f"HTTP/1.1 200 OK\r\n{head}{len(body)}\r\n\r\n".encode() + body)
        reply._writer.write_eof()

    with ServerInThread(script) as server, lorry.Client(server.url) as client:
        assert client.generate("Hi").text == "whole"
        assert client.generate("Hi").timing.reused_connection is False


def test_adapters_models_and_health(client: lorry.Client, server: ServerInThread) -> None:
    assert client.health() == lorry.Health(True, 200)
    client.ready(timeout=5)
    assert [card.id for card in client.adapters.list()] == ["pirate", "sql"]
    with pytest.raises(lorry.AdapterExists):
        client.adapters.load("sql", "/adapters/new")
    assert client.adapters.load("sql", "/adapters/new", replace=True).source == "/adapters/new"
    client.adapters.unload("sql")
    with pytest.raises(lorry.AdapterNotFound):
        client.adapters.get("sql")


def test_the_timeout_of_loading_an_adapter_is_one_limit_over_both_requests() -> None:
    talking = Talking()

    async def slowly(request: ReceivedRequest, reply: Reply) -> None:
        await asyncio.sleep(0.2)
        await talking(request, reply)

    with ServerInThread(slowly) as server, lorry.Client(server.url) as client:
        client.adapters.load("new", "/adapters/new", timeout=30)

    asked, put = (int(request.headers["x-request-timeout-ms"]) for request in server.requests)
    assert 20_000 < asked <= 30_000
    assert put <= asked - 200


def test_leaving_a_stream_early_closes_its_connection() -> None:
    left = threading.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()
        left.set()

    with ServerInThread(script) as server, lorry.Client(server.url) as client:
        with client.stream("Hi") as stream:
            next(stream)
        assert left.wait(10)

    assert stream.partial.text == "a"
    assert stream.partial.finish_reason is None


def test_a_stream_can_be_cancelled_from_another_thread() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()

    with ServerInThread(script) as server, lorry.Client(server.url) as client:
        stream = client.stream("Hi")
        next(stream)
        threading.Timer(0.05, stream.cancel, ["enough"]).start()
        with pytest.raises(lorry.StreamCancelled, match="enough") as caught:
            next(stream)

    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"


def test_the_snippet_of_the_documentation_runs(
    server: ServerInThread, capsys: pytest.CaptureFixture[str]
) -> None:
    document = Path(__file__).parents[3] / "docs" / "client-blocking.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    exec(snippet.replace("http://127.0.0.1:8000", server.url), {})

    assert "base: Arr, matey!" in capsys.readouterr().out


class Trickling:
    """Answers a byte at a time, each well within any timeout of one read."""

    def __init__(self, point: str) -> None:
        self._point = point

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._point == "headers":
            await self._trickle(reply, b"HTTP/1.1 200 OK\r\nx-padding: " + b"x" * 10_000)
        if self._point == "body":
            await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
            await self._trickle(reply, b" " * 10_000)
        await reply.start_stream()
        if self._point == "comments":
            await self._trickle(reply, b"1\r\n:\r\n" * 10_000)
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()

    async def _trickle(self, reply: Reply, data: bytes) -> None:
        for index in range(len(data)):
            await reply.raw(data[index : index + 1])
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("point", "streamed", "phase"),
    [
        ("headers", False, "headers"),
        ("body", False, "total"),
        ("comments", True, "first_token"),
        ("silence", True, "total"),
    ],
)
def test_a_deadline_holds_whatever_trickles_in(point: str, streamed: bool, phase: str) -> None:
    with (
        ServerInThread(Trickling(point)) as server,
        lorry.Client(server.url) as client,
        ThreadLag() as lag,
    ):
        started = time.monotonic()
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            client.generate("Hi", deadline=1, token_times=streamed)
        took_s = time.monotonic() - started

    assert caught.value.phase == phase
    assert caught.value.limit_s == 1
    # the limit of the requirement: 0.1 s beyond the deadline, on a machine that lets threads run
    assert took_s < 1 + 0.1 + lag.longest_s


def test_limits_on_silence_and_on_the_first_token_are_named() -> None:
    with ServerInThread(Trickling("silence")) as server, lorry.Client(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded) as idle:
            client.generate("Hi", timeout=lorry.Timeout(idle=0.05))
        server.server.script = Trickling("comments")
        with pytest.raises(lorry.DeadlineExceeded) as first_token:
            client.generate("Hi", timeout=lorry.Timeout(first_token=0.05))

    assert idle.value.phase == "idle"
    assert first_token.value.phase == "first_token"


def test_time_that_goes_into_connecting_is_called_connecting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = lorry.Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for limits in (lorry.Timeout(connect=0.05), lorry.Timeout(total=0.05, connect=None)):
            with pytest.raises(lorry.DeadlineExceeded) as caught:
                client.generate("Hi", timeout=limits)
            assert caught.value.phase == "connect"
        for filler in fillers:
            filler.close()


def test_a_refused_connection_is_no_timeout() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        client = lorry.Client(
            f"http://127.0.0.1:{placeholder.getsockname()[1]}",
            retry=lorry.RetryPolicy(max_attempts=2, base_s=0.001),
        )
        with pytest.raises(lorry.ConnectError, match="refuses connections") as caught:
            client.generate("Hi")

    assert caught.value.attempts == 2


def test_a_full_server_is_asked_again() -> None:
    async def full_at_first(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"}, retry_after="0")
        else:
            await reply.json(200, completion("x", finish_reason="stop"))

    with ServerInThread(full_at_first) as server, lorry.Client(server.url) as client:
        generation = client.generate("Hi")

    assert generation.attempts == 2
    assert server.requests[1].headers["x-request-attempt"] == "2"
    keys = {request.headers["idempotency-key"] for request in server.requests}
    assert keys == {generation.request_id}


@pytest.mark.parametrize("says_it_lives", [False, True], ids=["silent", "keep-alive comments"])
def test_a_finish_reason_ends_a_stream_that_is_held_open(says_it_lives: bool) -> None:
    left = threading.Event()

    async def hold(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1], finish_reason="stop"))
        leaving = asyncio.ensure_future(reply.client_left())
        with contextlib.suppress(ConnectionError):
            while says_it_lives and not leaving.done():
                await reply.chunk(b": keep-alive\n\n")
                await asyncio.sleep(0.02)
        await leaving
        left.set()

    with ServerInThread(hold) as server, lorry.Client(server.url) as client:
        generation = client.stream("Hi", deadline=30).final()
        assert left.wait(10)

    assert (generation.text, generation.finish_reason) == ("a", "stop")
    if not says_it_lives:  # the wait for more is no part of the answer
        assert generation.timing.done_ns == generation.timing.last_token_ns


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_is_cut_is_no_success(whole: bool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if whole:
            await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        else:
            await reply.start_stream()
            await reply.events(completion("a", token_ids=[1]))
        reply.cut()

    expected = lorry.ConnectionLost if whole else lorry.StreamTruncated
    with (
        ServerInThread(script) as server,
        lorry.Client(server.url) as client,
        pytest.raises(expected) as caught,
    ):
        client.generate("Hi", token_times=not whole)

    assert caught.value.request_id is not None
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (expected, str(caught.value))


def test_an_error_of_the_server_has_its_words_and_no_key() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(400, {"error": {"message": "secret-key is odd", "param": "top_p"}})

    with (
        ServerInThread(script) as server,
        lorry.Client(server.url, api_key="secret-key") as client,
        pytest.raises(lorry.BadRequest, match="is odd") as caught,
    ):
        client.generate("Hi")

    assert caught.value.param == "top_p"
    assert "secret-key" not in repr(caught.value) + str(caught.value.body) + repr(client)


def test_an_option_of_conversations_is_refused_by_name(client: lorry.Client) -> None:
    with pytest.raises(TypeError, match="'tools' is an option of conversations only"):
        client.generate("Hi", tools=[])  # type: ignore[call-arg]  # the point of the test


def test_many_threads_share_one_client(client: lorry.Client, server: ServerInThread) -> None:
    def call(index: int) -> str:
        prompt = f"prompt {index}"
        if index % 2:
            return client.stream(prompt, adapter=f"a{index}").text()
        return client.generate(prompt, adapter=f"a{index}").text

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(call, range(64)))

    assert texts == [f"a{index}: Arr, matey!" for index in range(64)]
    assert server.server.num_connections <= 8


GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import lorry

URL = sys.argv[1]
client = lorry.Client(URL)
ticks = 0

def tick():
    global ticks
    while ticks < 10:
        gevent.sleep(0.005)
        ticks += 1
    client.generate("let go")

ticker = gevent.spawn(tick)
jobs = [gevent.spawn(lambda: client.stream("Hi", deadline=40).text()) for _ in range(20)]
gevent.joinall(jobs, raise_error=True, timeout=50)
print(sorted({job.value for job in jobs}), ticks)
try:
    client.generate("stall", deadline=1)
except lorry.DeadlineExceeded as error:
    print(error.phase)
"""


def test_under_gevent_calls_run_beside_each_other() -> None:
    class Waiting:
        """Answers the streams when all twenty have come and a greenlet that ticks beside them says
        so: in turn they would never."""

        def __init__(self) -> None:
            self.waiting = 0
            self.everybody = asyncio.Event()
            self.let_go = asyncio.Event()

        async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
            if request.json["prompt"] == "stall":
                await reply.client_left()
                return
            if request.json["prompt"] == "let go":
                await self.everybody.wait()
                self.let_go.set()
                await reply.json(200, completion("", finish_reason="stop"))
                return
            self.waiting += 1
            if self.waiting == 20:
                self.everybody.set()
            await self.let_go.wait()
            await reply.stream(completion("done", finish_reason="stop"))

    with ServerInThread(Waiting()) as server:
        done = subprocess.run(
            [sys.executable, "-c", GEVENT, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.stderr, done.stdout.splitlines()) == ("", ["['done'] 10", "headers"])


FORKED = """
import os, sys, warnings
warnings.simplefilter("error")
import lorry

client = lorry.Client(sys.argv[1])
client.generate("parent")
child = os.fork()
if child == 0:
    answer = client.generate("child")
    os._exit(0 if answer.timing.reused_connection is False else 1)
_, status = os.waitpid(child, 0)
answer = client.generate("parent again")
print(os.waitstatus_to_exitcode(status), answer.timing.reused_connection)
client.close()
"""


def test_a_fork_does_not_share_connections(server: ServerInThread) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", FORKED, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stderr, done.stdout.split()) == ("", ["0", "True"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_checked_unless_a_context_says_otherwise(tmp_path: Path) -> None:
    with TlsServer(tmp_path) as tls:
        with pytest.raises(lorry.ConnectError, match="TLS handshake failed"):
            lorry.Client(tls.url).generate("Hi", deadline=5)
        with lorry.Client(tls.url, ssl_context=tls.trusting_context()) as client:
            assert client.generate("Hi", deadline=5).text == "sealed"
