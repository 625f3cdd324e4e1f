"""One attempt over a real socket, without locust."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Attempted, Verify
from lorry_loadtest.catalog import Catalog, CatalogError, fetch_catalog
from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint, parse_endpoint
from lorry_loadtest.limits import Limits
from lorry_loadtest.mock_faults import Fault
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.routes import Route
from lorry_loadtest.wire import Wire
from tests.support.mock_llm_server import running_mock

FAST = MockTimes(first_ms=5, gap_ms=2)
PATIENT = Limits(first_event_s=10, stall_s=10, total_s=10)


class Client:
    """One user's connection; `send` makes one attempt on it."""

    def __init__(
        self, endpoint: Endpoint, *, route: Route = "completions", connect_timeout_s: float = 5.0
    ) -> None:
        self.wire = Wire(endpoint=endpoint, base_model="mock-base")
        self.route = route
        self.connection = Connection(endpoint, connect_timeout_s=connect_timeout_s)

    def send(
        self,
        *,
        max_tokens: int = 6,
        adapter: str | None = "alpha",
        limits: Limits = PATIENT,
        complaint: str | None = None,
        patience_s: float | None = None,
        verify: Verify | None = None,
    ) -> Attempted:
        return attempt(
            PlannedRequest(
                0, "red boat", max_tokens, adapter, patience_s=patience_s, route=self.route
            ),
            wire=self.wire,
            connection=self.connection,
            limits=limits,
            origin_ns=0,
            verify=verify or (lambda planned, text: complaint),
        )


@pytest.mark.parametrize("route", ["completions", "chat", "lorax"])
def test_every_token_is_stamped_after_the_server_wrote_it(route: Route) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        record = Client(parse_endpoint(mock.url), route=route).send().record
        (served,) = mock.server.served

    assert record.outcome == "ok"
    assert record.completion_tokens == 6
    assert record.event_tokens == (1,) * 6
    assert record.tokens_stated
    assert list(record.event_ns) == sorted(record.event_ns)
    assert all(c >= sent for c, sent in zip(record.event_ns, served.sent_ns, strict=True))
    assert record.timings is not None
    assert record.timings.adapter == "alpha"


def test_several_tokens_in_one_event_are_counted() -> None:
    times = MockTimes(first_ms=5, gap_ms=1, tokens_per_event=4)
    with running_mock(MockServer(times=times)) as mock:
        record = Client(parse_endpoint(mock.url)).send(max_tokens=10).record

    assert record.event_tokens == (4, 4, 2)
    assert record.completion_tokens == 10


def test_one_connection_carries_all_requests_of_a_user() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        client = Client(parse_endpoint(mock.url))
        records = [client.send().record for _ in range(3)]

    assert [record.reused_connection for record in records] == [False, True, True]
    assert mock.server.num_connections == 1


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("http_429", "http_429"),
        ("http_500", "http_5xx"),
        ("error_event", "sse_error_event"),
        ("cut", "truncated"),
        ("no_done", "truncated"),
        ("garbage", "sse_malformed"),
    ],
)
def test_each_failure_has_its_class_and_the_next_request_works(fault: Fault, outcome: str) -> None:
    with running_mock(MockServer(times=FAST, faults={0: fault})) as mock:
        client = Client(parse_endpoint(mock.url))
        failed, fine = client.send().record, client.send().record

    assert failed.outcome == outcome
    assert failed.error
    assert fine.outcome == "ok"


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        (Limits(first_event_s=0.05, total_s=10), "timeout_ttft"),
        (Limits(first_event_s=10, total_s=0.05), "timeout_total"),
    ],
)
def test_a_server_that_hangs_is_given_up(limits: Limits, outcome: str) -> None:
    with running_mock(MockServer(times=FAST, faults={0: "hang"})) as mock:
        record = Client(parse_endpoint(mock.url)).send(limits=limits).record

    assert record.outcome == outcome


def test_a_head_without_an_event_does_not_begin_the_answer() -> None:
    """Servers send it at once: how long the first token may take is still the limit for that."""
    limits = Limits(first_event_s=1, stall_s=10, total_s=10)
    with running_mock(MockServer(times=MockTimes(first_ms=60_000))) as mock:
        record = Client(parse_endpoint(mock.url)).send(limits=limits).record

    assert (record.outcome, record.http_status) == ("timeout_ttft", 200)


def test_a_first_token_may_take_longer_than_a_pause() -> None:
    limits = Limits(first_event_s=20, stall_s=1, total_s=20)
    with running_mock(MockServer(times=MockTimes(first_ms=1_500, gap_ms=2))) as mock:
        record = Client(parse_endpoint(mock.url)).send(limits=limits).record

    assert record.outcome == "ok"


def test_a_check_that_fails_itself_still_leaves_a_record() -> None:
    def broken(planned: PlannedRequest, text: str) -> str | None:
        raise KeyError("price")

    with running_mock(MockServer(times=FAST)) as mock:
        record = Client(parse_endpoint(mock.url)).send(verify=broken).record

    assert (record.outcome, len(record.event_ns)) == ("wrong_output", 6)
    assert "KeyError('price')" in (record.error or "")


def test_a_stream_that_stalls_is_given_up() -> None:
    """Its one small event is stamped although no more bytes follow: reads do not wait for more."""
    with running_mock(MockServer(times=MockTimes(first_ms=1, gap_ms=60_000))) as mock:
        limits = Limits(first_event_s=10, stall_s=0.05, total_s=10)
        record = Client(parse_endpoint(mock.url)).send(limits=limits).record

    assert record.outcome == "stalled"
    assert len(record.event_ns) == 1


def test_a_text_that_the_locustfile_rejects_is_a_wrong_output() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        record = Client(parse_endpoint(mock.url)).send(complaint="no pirate").record

    assert (record.outcome, record.error) == ("wrong_output", "no pirate")


def test_a_port_that_nobody_listens_on_is_a_failed_connection(unused_port: int) -> None:
    endpoint = parse_endpoint(f"http://127.0.0.1:{unused_port}")
    record = Client(endpoint).send().record

    assert record.outcome == "connect"
    assert record.t_send_ns is None


def test_a_server_without_tls_is_a_failed_handshake() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        endpoint = parse_endpoint(mock.url.replace("http:", "https:"))
        record = Client(endpoint, connect_timeout_s=1).send().record

    assert record.outcome == "tls"


def test_the_catalog_tells_the_base_model_from_adapters() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        catalog = fetch_catalog(parse_endpoint(mock.url), api_key=None)

    assert catalog == Catalog("mock-base", ("alpha", "beta"))


def test_a_missing_server_is_named(unused_port: int) -> None:
    endpoint = parse_endpoint(f"http://127.0.0.1:{unused_port}")

    with pytest.raises(CatalogError, match=f"no server at http://127.0.0.1:{unused_port}"):
        fetch_catalog(endpoint, api_key=None)


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))  # and does not listen, nor can anybody else
        yield placeholder.getsockname()[1]
