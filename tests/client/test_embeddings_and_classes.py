"""Vectors and labels for texts, and token ids made text again."""

from __future__ import annotations

import base64
import pickle
import re
import struct
from typing import Any

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, Script


def answering(body: Any, status: int = 200) -> Script:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(status, body)

    return script


def vectors(*embeddings: Any) -> dict[str, Any]:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(embeddings)]
    # servers may answer in any order
    return {"data": data[::-1], "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


async def test_embeddings_are_vectors_in_the_order_of_the_texts() -> None:
    packed = base64.b64encode(struct.pack("<2f", 3.0, 4.0)).decode()
    async with (
        FakeLLMServer(answering(vectors([1.0, 2.0], packed))) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        found = await client.embeddings(["a", "b"], adapter="pirate", dimensions=2)

    assert [list(vector) for vector in found] == [[1.0, 2.0], [3.0, 4.0]]
    assert (len(found), found[1][0], found.model, found.prompt_tokens) == (2, 3.0, "m", 5)
    assert found.endpoint == server.url
    assert found.timing.e2e is not None
    assert repr(found) == "Embeddings(2 of 2 dimensions, model='m')"
    assert pickle.loads(pickle.dumps(found)) == found
    assert server.requests[0].path == "/v1/embeddings"
    assert server.requests[0].json == {"model": "pirate", "input": ["a", "b"], "dimensions": 2}


async def test_one_text_gives_one_vector_and_extra_fields_are_sent() -> None:
    async with (
        FakeLLMServer(answering(vectors([1.0]))) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        found = await client.embeddings("a", extra_body={"encoding_format": "base64"})

    assert len(found) == 1
    assert server.requests[0].json["encoding_format"] == "base64"


@pytest.mark.parametrize(("answer", "problem"), [((), "0 vectors"), (("%%%%",), "base64")])
async def test_an_answer_that_does_not_fit_is_a_protocol_error(
    answer: tuple[Any, ...], problem: str
) -> None:
    async with (
        FakeLLMServer(answering(vectors(*answer))) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        with pytest.raises(lorry.StreamProtocolError, match=problem) as caught:
            await client.embeddings("a", request_id="id-1")
        stats = client.stats()

    assert (caught.value.request_id, caught.value.attempts) == ("id-1", 1)
    assert caught.value.timing is not None
    assert stats.num_failed == {"StreamProtocolError": 1}


async def test_what_a_server_has_not_got_is_its_own_error() -> None:
    missing = {"error": {"message": "there is no /v1/embeddings", "type": "invalid_request_error"}}
    async with (
        FakeLLMServer(answering(missing, 404)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        for call in (
            client.embeddings("a"),
            client.classify("a"),
            client.metrics(),
            client.detokenize([1]),
        ):
            with pytest.raises(lorry.HTTPStatusError, match="there is no") as caught:
                await call
            assert caught.value.status == 404


async def test_vllms_classes_are_labels_with_probabilities() -> None:
    data = [
        {"index": 1, "label": "bad", "probs": [0.2, 0.8], "num_classes": 2},
        {"index": 0, "label": "good", "probs": [0.9, 0.1], "num_classes": 2},
    ]
    async with (
        FakeLLMServer(answering({"data": data})) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        found = await client.classify(["a", "b"], adapter="mood")

    assert found == [
        lorry.Classification("good", (0.9, 0.1)),
        lorry.Classification("bad", (0.2, 0.8)),
    ]
    assert found[0].score == 0.9
    assert (server.requests[0].path, server.requests[0].json) == (
        "/classify",
        {"model": "mood", "input": ["a", "b"]},
    )


async def test_loraxs_classes_are_entities() -> None:
    entity = {"entity_group": "LOC", "score": 0.9, "word": "Kiel", "start": 3, "end": 7}
    async with (
        FakeLLMServer(answering([[entity], []])) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        found = await client.classify(["in Kiel", "b"], dialect="lorax")

    assert found == [[lorry.Entity("LOC", "Kiel", 0.9, 3, 7)], []]
    assert (server.requests[0].path, server.requests[0].json) == (
        "/classify_batch",
        {"inputs": ["in Kiel", "b"]},
    )


async def test_an_adapter_may_be_given_by_its_lorax_name() -> None:
    async with (
        FakeLLMServer(answering(vectors([1.0]))) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        await client.embeddings("a", adapter_id="pirate")
        with pytest.raises(lorry.StreamProtocolError) as caught:
            await client.classify("a", adapter_id="pirate")
        await client.raw("GET", "/x", adapter_id="pirate")

    embedding, classification, _ = server.requests
    assert embedding.json["model"] == classification.json["model"] == "pirate"
    assert caught.value.adapter == "pirate"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"adaptr": "a"}, "unexpected keyword argument 'adaptr'; did you mean 'adapter'?"),
        ({"dedline": 2}, "did you mean 'deadline'?"),
        ({"adapter": "a", "adapter_id": "b"}, "'adapter' and 'adapter_id' are two names"),
        ({"temperature": 0.5}, "unexpected keyword argument 'temperature'"),
        ({"tools": []}, "'tools' is an option of conversations only"),
    ],
)
async def test_an_unknown_option_is_refused_with_the_one_that_was_meant(
    options: dict[str, Any], named: str
) -> None:
    client: Any = lorry.AsyncClient("http://nowhere.invalid")
    for call in (
        lambda: client.embeddings("a", **options),
        lambda: client.classify("a", **options),
        lambda: client.raw("GET", "/x", **options),
        lambda: anext(client.raw.stream("GET", "/x", **options)),
    ):
        with pytest.raises(TypeError, match=re.escape(named)):
            await call()


async def test_an_option_of_another_method_is_refused() -> None:
    client: Any = lorry.AsyncClient("http://nowhere.invalid")

    with pytest.raises(TypeError, match="'dimensions'"):
        await client.classify("a", dimensions=2)
    with pytest.raises(TypeError, match="'extra_body'"):
        await client.raw("GET", "/x", extra_body={})


async def test_a_wrong_dialect_is_named() -> None:
    client: Any = lorry.AsyncClient()

    with pytest.raises(ValueError, match="'tgi'; it must be 'vllm' or 'lorax'"):
        await client.classify("a", dialect="tgi")
    with pytest.raises(TypeError, match="takes no adapter"):
        await client.classify("a", dialect="lorax", adapter="x")


async def test_detokenize_is_the_way_back() -> None:
    async with (
        FakeLLMServer(answering({"prompt": "Hi"})) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        assert await client.detokenize((5, 6)) == "Hi"

    assert server.requests[0].json == {"model": "", "tokens": [5, 6]}
