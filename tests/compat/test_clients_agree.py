"""Every client gets the same text out of the real engine, with and without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import AsyncInferenceClient
from openai import AsyncOpenAI

import lorry
from tests.support.lorax_family import LoraxFamilySession
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_model import write_tiny_model
from tests.support.tiny_server import tiny_server

PROMPT = "the dog and the cat"
NUM_TOKENS = 24
ADAPTER = "spicy"


async def texts_by_openai(url: str, model: str) -> list[str]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        options: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0}
        whole = await client.completions.create(model=model, prompt=PROMPT, **options)
        pair = await client.completions.create(model=model, prompt=[PROMPT, PROMPT], **options)
        stream = await client.completions.create(model=model, prompt=PROMPT, stream=True, **options)
        streamed = [choice.text async for chunk in stream for choice in chunk.choices]
    return [*(choice.text for choice in [*whole.choices, *pair.choices]), "".join(streamed)]


async def texts_by_hub(url: str, adapter_id: str | None) -> list[str]:
    async with AsyncInferenceClient(base_url=url) as client:
        whole = await client.text_generation(
            PROMPT, max_new_tokens=NUM_TOKENS, adapter_id=adapter_id
        )
        stream = await client.text_generation(
            PROMPT, max_new_tokens=NUM_TOKENS, adapter_id=adapter_id, stream=True
        )
        return [whole, "".join([text async for text in stream])]


async def texts_by_lorry(url: str, adapter: str | None) -> list[str]:
    async with lorry.AsyncClient(url) as client:
        generation = await client.generate(
            PROMPT, max_tokens=NUM_TOKENS, temperature=0, adapter=adapter
        )
    return [generation.text]


async def texts_by_lorax_family(
    url: str, session: LoraxFamilySession, **adapter: str | None
) -> list[str]:
    arguments = {"prompt": PROMPT, "max_new_tokens": NUM_TOKENS, **adapter}
    whole, events = await session.call(
        url, ("generate", arguments), ("async.generate_stream", arguments)
    )
    return [whole["result"]["generated_text"], events["result"][-1]["generated_text"]]


async def test_every_client_gets_the_same_text(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    adapter_folder = write_adapter(
        write_tiny_model(folder),
        tmp_path / "adapter",
        seed=3,
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj"],
    )
    with LoraxFamilySession("lorax") as lorax, LoraxFamilySession("text_generation") as tgi:
        async with tiny_server(folder, "--adapter", f"{ADAPTER}={adapter_folder}") as url:
            base = [
                *await texts_by_openai(url, folder.name),
                *await texts_by_hub(url, None),
                *await texts_by_lorry(url, None),
                *await texts_by_lorax_family(url, lorax, adapter_id=None),
                *await texts_by_lorax_family(url, tgi),
            ]
            adapted = [
                *await texts_by_openai(url, ADAPTER),
                *await texts_by_hub(url, ADAPTER),
                *await texts_by_lorry(url, ADAPTER),
                *await texts_by_lorax_family(url, lorax, adapter_id=ADAPTER),
            ]

    assert len(set(base)) == 1
    assert len(set(adapted)) == 1
    assert base[0] != adapted[0]
