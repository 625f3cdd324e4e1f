"""The prompts of a request as token ids, bounded before any work is spent on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lorry.types.common import MAX_PROMPTS
from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown
from lorry_server.http.serving import Serving
from lorry_server.text.chat_template import ChatTemplate

T = TypeVar("T")

# Tokenizing takes about a millisecond for so many characters; more would be felt on the loop.
MAX_CHARS_ON_LOOP = 16 * 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is what the client wrote, None when it sent token ids."""

    token_ids: tuple[int, ...]
    text: str | None = None


async def completion_prompts(
    prompt: str | Sequence[str | int | Sequence[int]], *, serving: Serving
) -> list[Prompt]:
    """Convert OpenAI's `prompt`: a string, strings, token ids, or lists of token ids."""
    if isinstance(prompt, str):
        return await encode_texts([prompt], serving=serving)
    if not prompt:
        raise RequestError("`prompt` is empty", param="prompt", code="invalid_value")
    if all(isinstance(item, int) for item in prompt):
        return [id_prompt(prompt, serving=serving)]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(
            f"`prompt` may hold at most {MAX_PROMPTS} prompts. Given: {len(prompt)}",
            param="prompt",
            code="invalid_value",
        )
    texts = [item for item in prompt if isinstance(item, str)]
    if len(texts) == len(prompt):
        return await encode_texts(texts, serving=serving)
    lists = [item for item in prompt if not isinstance(item, str | int)]
    if len(lists) == len(prompt):
        return [id_prompt(ids, serving=serving) for ids in lists]
    raise RequestError(
        "`prompt` mixes strings, token ids and lists of token ids; give one kind",
        param="prompt",
        code="invalid_value",
    )


async def encode_texts(texts: Sequence[str], *, serving: Serving) -> list[Prompt]:
    """Tokenize, off the event loop when it would take long."""
    for text in texts:
        check_text(text, param="prompt", serving=serving)

    def encode() -> list[Prompt]:
        return [Prompt(tuple(serving.tokenizer.encode(text)), text) for text in texts]

    prompts = await off_loop(encode, num_chars=sum(map(len, texts)))
    for prompt in prompts:
        check_length(len(prompt.token_ids), param="prompt", serving=serving)
    return prompts


async def off_loop(work: Callable[[], T], *, num_chars: int, is_slow: bool = False) -> T:
    """Run `work` in a thread when its text is so long, or it so slow, that the loop would notice."""
    if is_slow or num_chars > MAX_CHARS_ON_LOOP:
        return await asyncio.to_thread(work)
    return work()


def may_be_slow(template: ChatTemplate | None) -> bool:
    """Whether a template is an adapter's, which may run until its time is up."""
    return template is not None and template.is_bounded_in_time


def check_text(text: str, *, param: str, serving: Serving) -> None:
    """Refuse what cannot be served without tokenizing it."""
    if not text:
        raise RequestError(f"`{param}` is empty", param=param, code="invalid_value")
    max_model_len = serving.engine.info.max_model_len
    max_bytes = max_model_len * serving.settings.max_prompt_bytes_per_token
    if len(text) > max_bytes or len(text.encode()) > max_bytes:
        raise RequestError(
            f"This model's maximum context length is {max_model_len} tokens, and a prompt may "
            f"have at most {max_bytes} bytes. Yours has {len(text.encode())}.",
            param=param,
            code="context_length_exceeded",
        )


def id_prompt(ids: Sequence[object], *, serving: Serving) -> Prompt:
    """Check a prompt of token ids against the width of the model's embedding."""
    if not ids:
        raise RequestError("`prompt` is empty", param="prompt", code="invalid_value")
    check_length(len(ids), param="prompt", serving=serving)
    width = serving.engine.info.logits_width
    token_ids = []
    for token_id in ids:
        if not isinstance(token_id, int) or not 0 <= token_id < width:
            raise RequestError(
                f"`prompt` holds token ids from 0 to {width - 1}. Given: {shown(token_id)}",
                param="prompt",
                code="invalid_value",
            )
        token_ids.append(token_id)
    return Prompt(tuple(token_ids))


def check_length(num_tokens: int, *, param: str, serving: Serving) -> None:
    """Refuse a prompt that leaves no room for a single new token."""
    max_model_len = serving.engine.info.max_model_len
    if num_tokens >= max_model_len:
        raise RequestError(
            f"This model's maximum context length is {max_model_len} tokens, and your prompt "
            f"has {num_tokens}. There must be room for at least one more.",
            param=param,
            code="context_length_exceeded",
        )


def max_new_tokens(asked: int | None, *, default: int, prompt: Prompt, serving: Serving) -> int:
    """Return how many tokens may follow `prompt`.

    None asks for `default`, or for the rest of the context when that is less.
    """
    max_model_len = serving.engine.info.max_model_len
    room = max_model_len - len(prompt.token_ids)
    if asked is None:
        return min(default, room)
    if asked > room:
        raise RequestError(
            f"This model's maximum context length is {max_model_len} tokens. You asked for "
            f"{len(prompt.token_ids) + asked}: {len(prompt.token_ids)} in the prompt and "
            f"{asked} to be generated.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return asked
