"""The command line, the blocking client and the smaller routes against the server itself."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import lorry
from lorry.waterfall import spans
from tests.support.terminal import PROGRAM
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import WholeServer, whole_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
async def server(folder: Path, tmp_path: Path) -> AsyncIterator[WholeServer]:
    adapters = {
        name: write_adapter(
            folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"]
        )
        for seed, name in enumerate(("pirate", "sql"))
    }
    async with whole_server(folder, adapters=adapters) as running:
        yield running


async def run(server: WholeServer, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Run `lorry` and return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments, "--url", server.base_url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_generate_compares_adapters(server: WholeServer) -> None:
    arguments = ("Once", "--max-tokens", "6", "--temperature", "0", "--json")
    status, out, err = await run(
        server, "generate", *arguments, "--adapter=pirate", "--adapter=sql", "--adapter="
    )

    answers = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [answer["adapter"] for answer in answers] == ["pirate", "sql", None]
    assert len({answer["text"] for answer in answers}) == 3
    assert all(answer["timing"]["server"]["decode_ms"] >= 0 for answer in answers)


async def test_chat_remembers_and_an_unknown_adapter_is_named(server: WholeServer) -> None:
    status, out, err = await run(
        server, "chat", "--max-tokens", "4", stdin="Hello\n/adapter nobody\nHello\n"
    )

    assert status == 1
    assert "answered by: nobody" in out
    assert "'nobody'" in err
    assert "`lorry adapters list` shows what there is" in err


async def test_the_blocking_client_gets_the_same_text(server: WholeServer) -> None:
    options: lorry.GenerateOptions = {"max_tokens": 12, "temperature": 0.0, "adapter": "pirate"}
    async with lorry.AsyncClient(server.base_url) as client:
        expected = await client.generate("Once upon", **options)

    def ask() -> tuple[str, str]:
        with lorry.Client(server.base_url) as client:
            whole = client.generate("Once upon", deadline=30, **options)
            return whole.text, client.stream("Once upon", **options).text()

    assert await asyncio.to_thread(ask) == (expected.text, expected.text)


async def test_the_waterfall_has_the_servers_phases(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        streamed = await client.stream("Once upon", max_tokens=12).final()
        whole = await client.generate("Once upon", max_tokens=12)

    for timing in (streamed.timing, whole.timing):
        names = [span.name for span in spans(timing)]
        assert {"network", "server queue", "prefill", "decode", "client lag"} <= set(names)
        assert spans(timing)[-1].end_ns == timing.done_ns


async def test_metrics_of_the_server_are_read(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        await client.generate("Once upon", max_tokens=5, ignore_eos=True)
        metrics = await client.metrics()

    assert metrics["vllm:num_requests_running"].total == 0
    assert metrics["vllm:generation_tokens_total"].total == 5
    (first_tokens,) = metrics["vllm:time_to_first_token_seconds"].histograms()
    assert first_tokens.count == 1
    assert first_tokens.quantile(0.5) > 0


async def test_what_the_server_lacks_is_its_own_clear_error(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        for call in (client.embeddings("a"), client.classify("a"), client.detokenize([1])):
            with pytest.raises(lorry.HTTPStatusError) as caught:
                await call
            assert caught.value.status in (404, 405)
            assert str(caught.value)
        messages = [{"role": "user", "content": "Hi"}]
        with pytest.raises(lorry.BadRequest, match="tools"):
            await client.chat(messages, tools=[{"type": "function", "function": {"name": "f"}}])
        with pytest.raises(lorry.BadRequest, match="priority"):
            await client.generate("Hi", priority=1)
        with pytest.raises(lorry.BadRequest, match="response_format"):
            await client.generate("Hi", response_format={"type": "json_object"})


async def test_prefetch_loads_what_is_only_known(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        source = (await client.adapters.get("sql")).source
        later = await client.adapters.load("later", source, preload=False)
        cards = await client.adapters.prefetch(["later", "sql"])

    assert later.state == "known"
    assert [(card.id, card.state) for card in cards] == [("later", "ready"), ("sql", "ready")]


async def test_prefetch_names_what_is_not_there(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        with pytest.raises(lorry.AdapterNotFound):
            await client.adapters.prefetch(["sql", "nobody"])
        with pytest.raises(TypeError, match="a list of names"):
            await client.adapters.prefetch("sql")
