"""The error tree: which answer becomes which error, and that all of them travel."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from typing import Any

import pytest

import lorry
from lorry import errors
from lorry.error_mapping import MAX_BODY_CHARS, retry_after_s, status_error
from lorry.errors import Phase
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    event,
)

ERROR_CLASSES = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, Exception) and item.__module__ == errors.__name__
]
TIMING = lorry.Timing(created_ns=1, intended_ns=1, attempts=(lorry.AttemptTiming(2),), done_ns=3)
PARTIAL = lorry.Generation("so far", None, lorry.Usage(None, 2), TIMING, "id-1", "http://x")


@pytest.mark.parametrize("make_copy", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_error_survives_pickle_and_copy(
    error_class: type[lorry.ClientError], make_copy: Any
) -> None:
    error = error_class("it broke")
    error.request_id, error.endpoint, error.adapter = "id-1", "http://x", "pirate"
    error.status, error.retryable, error.attempts = 503, True, 2
    error.timing, error.partial, error.body = TIMING, PARTIAL, "{}"

    again = make_copy(error)

    assert type(again) is error_class
    assert str(again) == "it broke"
    assert vars(again) == vars(error)


def test_own_fields_of_errors_survive_pickle() -> None:
    late = lorry.DeadlineExceeded("late", phase="idle", limit_s=2.0)
    refused = lorry.ConnectError("no", refused=True)
    both = lorry.RetriesExhausted("two", causes=(late, refused))

    again = pickle.loads(pickle.dumps(both))

    assert (again.causes[0].phase, again.causes[0].limit_s) == ("idle", 2.0)
    assert again.causes[1].retryable is True


def test_tree_in_the_docstring_has_every_class() -> None:
    names = {error_class.__name__ for error_class in ERROR_CLASSES}
    drawn = {line.split()[0] for line in (errors.__doc__ or "").splitlines() if line.strip()}

    assert names <= drawn


@pytest.mark.parametrize(
    ("status", "detail", "expected"),
    [
        (400, {}, lorry.BadRequest),
        (422, {}, lorry.BadRequest),
        (413, {}, lorry.BadRequest),
        (400, {"code": "context_length_exceeded"}, lorry.ContextTooLong),
        (422, {"message": "`inputs` must have less than 5 tokens. Given: 9"}, lorry.ContextTooLong),
        (401, {}, lorry.Unauthorized),
        (403, {}, lorry.Forbidden),
        (404, {"code": "model_not_found"}, lorry.AdapterNotFound),
        (404, {"type": "NotFoundError", "code": 404}, lorry.AdapterNotFound),
        (404, {}, lorry.HTTPStatusError),
        (409, {"code": "adapter_loading"}, lorry.AdapterLoading),
        (503, {"code": "adapter_loading"}, lorry.AdapterLoading),
        (422, {"code": "adapter_invalid"}, lorry.AdapterInvalid),
        (400, {"code": "adapter_load_failed"}, lorry.AdapterInvalid),
        (424, {"code": "adapter_load_failed"}, lorry.AdapterInvalid),
        (404, {"code": "adapter_not_found"}, lorry.AdapterNotFound),
        (429, {}, lorry.Overloaded),
        (503, {}, lorry.Overloaded),
        (424, {}, lorry.ServerError),
        (500, {}, lorry.ServerError),
        (504, {}, lorry.ServerError),
        (302, {}, lorry.HTTPStatusError),
    ],
)
async def test_status_and_code_choose_the_error(
    status: int, detail: dict[str, Any], expected: type[lorry.ClientError]
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(status, {"error": {"message": "it is so", "type": "t", **detail}})

    once = lorry.RetryPolicy(max_attempts=1)
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=once) as client,
    ):
        with pytest.raises(lorry.HTTPStatusError) as caught:
            await client.generate("Hi", adapter="pirate", request_id="id-1")

    assert type(caught.value) is expected
    assert caught.value.status == status
    assert (caught.value.request_id, caught.value.adapter) == ("id-1", "pirate")
    assert caught.value.endpoint == server.url
    assert caught.value.timing is not None


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"bad top_p","type":"t","code":"c"}}', "bad top_p", "c"),
        (b'{"error":"bad top_p","error_type":"validation"}', "bad top_p", "validation"),
        (b'{"error":"Unauthorized"}', "Unauthorized", None),
        (b"upstream is gone", "upstream is gone", None),
        (b'{"detail":"x"}', '{"detail":"x"}', None),
        (b"", "no body", None),
        (b"\xff\xfe", "\ufffd", None),
    ],
)
def test_every_shape_of_body_gives_its_message(body: bytes, message: str, code: str | None) -> None:
    error = status_error(500, {}, body)

    assert message in str(error)
    assert error.code == code


def test_kept_body_is_short_and_without_the_key() -> None:
    error = status_error(500, {}, b"secret-key " + b"x" * 10_000, secret="secret-key")

    assert error.body is not None
    assert len(error.body) == MAX_BODY_CHARS
    assert "secret-key" not in error.body + str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize("fault", ["status", "cut", "garbage"])
async def test_no_key_shows_in_errors_or_reprs(fault: str) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if fault == "cut":
            reply.cut()
        elif fault == "status":
            await reply.plain(401, f"you sent {request.headers['authorization']}".encode())
        else:
            await reply.json(200, {**completion("x"), "choices": 1})

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, api_key="sk-very-secret") as client,
    ):
        with pytest.raises(lorry.ClientError) as caught:
            await client.generate("Hi")

    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "sk-very-secret" not in shown
    assert "sk-very-secret" not in repr(client) + repr(vars(client)["_session"].config)


async def test_a_key_that_was_given_as_a_header_does_not_show_either() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(401, f"you sent {request.headers['authorization']}".encode())

    headers = {"Authorization": "Basic hidden-words"}
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, api_key="not-sent", headers=headers) as client,
    ):
        with pytest.raises(lorry.Unauthorized, match="you sent Basic") as caught:
            await client.generate("Hi")

    assert "hidden-words" not in str(caught.value) + repr(vars(caught.value))


async def test_connection_lost_in_an_error_answer_still_gives_the_status() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 500 Broken\r\ncontent-length: 100\r\n\r\nhalf")
        reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.ServerError) as caught:
            await client.generate("Hi")

    assert caught.value.status == 500


async def test_body_of_a_generation_that_is_cut_is_a_lost_connection() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")


async def test_unasked_compression_is_refused() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"\x1f\x8b", content_encoding="gzip")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError, match="gzip"):
            await client.generate("Hi")

    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_a_reason_for_not_trying_again_and_what_went_before_survive_pickle() -> None:
    error = lorry.Overloaded("full", status=503)
    error.not_retried, error.causes = "budget", (lorry.ConnectError("no", refused=True),)
    error.add_note("not sent again")

    again = pickle.loads(pickle.dumps(error))

    assert again.not_retried == "budget"
    assert again.causes[0].retryable is True
    assert again.__notes__ == ["not sent again"]


@pytest.mark.parametrize(
    ("phase", "is_safe"), [("queue", True), ("connect", True), ("headers", False)]
)
def test_time_that_ran_out_before_anything_was_sent_has_run_nothing(
    phase: Phase, is_safe: bool
) -> None:
    assert lorry.DeadlineExceeded("late", phase=phase).retryable is is_safe


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "too late", "code": "deadline_exceeded"}},
        {"error": "too late", "error_type": "deadline_exceeded"},
    ],
)
async def test_a_server_that_says_that_the_time_is_over_is_the_deadline(body: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json.get("stream"):
            await reply.start_stream()
            await reply.events(completion("a", token_ids=[1]), body)
            await reply.client_left()
        else:
            await reply.json(408, body, x_should_retry="false")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded, match="too late") as whole:
            await client.generate("Hi", deadline=60)
        with pytest.raises(lorry.DeadlineExceeded, match="too late") as streamed:
            await client.stream("Hi", deadline=60).final()

    assert (whole.value.phase, whole.value.limit_s, whole.value.status) == ("headers", 60, 408)
    assert (whole.value.attempts, whole.value.retryable) == (1, False)
    assert (streamed.value.phase, streamed.value.limit_s) == ("total", 60)
    assert streamed.value.partial is not None
    assert streamed.value.partial.text == "a"


async def test_a_broken_event_says_where_in_the_stream_it_stands() -> None:
    good = event(completion("a", token_ids=[1]))

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.chunk(good + b"data: {broken\n\n")
        await reply.client_left()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError) as caught:
            await client.stream("Hi").final()

    assert caught.value.snippet == b"{broken"
    assert caught.value.offset == len(good) + len(b"data: ")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"


async def test_unknown_host_is_a_connect_error_that_is_not_retried() -> None:
    async with lorry.AsyncClient("http://no-such-host.invalid") as client:
        with pytest.raises(lorry.ConnectError, match="host name") as caught:
            await client.generate("Hi")

    assert caught.value.attempts == 1
