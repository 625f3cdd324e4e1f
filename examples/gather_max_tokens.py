"""Three conversations at once: the short answers do not wait for the long ones.

    lorry serve                              # in one terminal
    python examples/gather_max_tokens.py     # in another

Three people talk to the same chatbot under one `asyncio.gather`. Each asks three questions, the next
one when the last is answered. One of them allows 100 tokens an answer, the others 10. A server that
ran them as one fixed batch would hold the short answers back until the long one is done; here
sequences join and leave the batch at every step. First with the `openai` package, then with `lorry`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

import openai

import lorry

SYSTEM = (
    "You are Barnacle, the friendly chatbot of an old sailing ship. "
    "Whatever you are asked, you answer kindly and always in the style of a pirate."
)
PICTURE_WIDTH = 60


@dataclass(frozen=True)
class Guest:
    name: str
    max_tokens: int
    questions: tuple[str, str, str]


GUESTS = (
    Guest(
        "Ada",
        100,
        (
            "Tell me about the biggest storm you ever saw.",
            "How did the ship come through it?",
            "What did the crew do the next morning?",
        ),
    ),
    Guest("Ben", 10, ("Who are you?", "Where do you sail?", "May I come aboard?")),
    Guest("Cleo", 10, ("What is for supper?", "Do you like fish?", "What do you drink?")),
)


@dataclass(frozen=True)
class Answer:
    """`start_s` and `end_s` are seconds since all three conversations began."""

    text: str
    start_s: float
    end_s: float


# Something that answers a conversation with at most so many tokens.
Message = dict[str, str]
Ask = Callable[[list[Message], int], Awaitable[str]]


async def talk(guest: Guest, ask: Ask, *, began_s: float) -> list[Answer]:
    """Ask the guest's questions in turn, each with all that was said before."""
    messages = [{"role": "system", "content": SYSTEM}]
    answers = []
    for question in guest.questions:
        messages.append({"role": "user", "content": question})
        start_s = perf_counter() - began_s
        text = await ask(messages, guest.max_tokens)
        answers.append(Answer(text, start_s, perf_counter() - began_s))
        messages.append({"role": "assistant", "content": text})
    print(f"  {guest.name:<5} is done after {answers[-1].end_s:6.2f} s", flush=True)
    return answers


async def talk_all(ask: Ask) -> None:
    began_s = perf_counter()
    talks = await asyncio.gather(*(talk(guest, ask, began_s=began_s) for guest in GUESTS))
    show(talks)


def show(talks: list[list[Answer]]) -> None:
    """Print what was said first, and when each answer was on its way: 1, 2, 3."""
    end_s = max(answer.end_s for answers in talks for answer in answers)
    print()
    for guest, answers in zip(GUESTS, talks, strict=True):
        picture = "".join(
            str(number) * (column(answer.end_s, end_s) - column(answer.start_s, end_s))
            for number, answer in enumerate(answers, start=1)
        )
        durations = " ".join(f"{answer.end_s - answer.start_s:5.2f}" for answer in answers)
        label = f"{guest.name:<5} {guest.max_tokens:>3} tokens"
        print(f"  {label} |{picture:<{PICTURE_WIDTH}}| {durations} s")
    print(f"  {'':<16} 0 s{f'{end_s:.2f} s':>{PICTURE_WIDTH - 2}}")
    print()
    for guest, answers in zip(GUESTS, talks, strict=True):
        print(f"  {guest.name}: {guest.questions[0]}")
        print(f"    {' '.join(answers[0].text.split())}")
    print()


def column(time_s: float, end_s: float) -> int:
    """Where a time stands in the picture; at least one column a second answer is seen by."""
    return round(time_s / end_s * PICTURE_WIDTH)


async def with_openai(base_url: str, *, model: str | None) -> None:
    key = os.environ.get("LORRY_API_KEY", "not needed without --api-key")
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key) as client:
        if model is None:
            model = (await client.models.list()).data[0].id

        async def ask(messages: list[Message], max_tokens: int) -> str:
            chat = await client.chat.completions.create(
                model=model, messages=messages, max_tokens=max_tokens, temperature=0.7, seed=1
            )
            return chat.choices[0].message.content or ""

        print(f"openai.AsyncOpenAI, model {model}")
        await talk_all(ask)


async def with_lorry(base_url: str, *, model: str | None) -> None:
    async with lorry.AsyncClient(base_url) as client:

        async def ask(messages: list[Message], max_tokens: int) -> str:
            generation = await client.chat(
                messages, max_tokens=max_tokens, adapter=model, temperature=0.7, seed=1
            )
            return generation.text

        print(f"lorry.AsyncClient, {model or 'the base model'}")
        await talk_all(ask)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="of a `lorry serve`")
    parser.add_argument("--model", help="the name of an adapter; without it, the base model")
    args = parser.parse_args()
    try:
        await with_openai(args.base_url, model=args.model)
        await with_lorry(args.base_url, model=args.model)
    except (openai.APIConnectionError, lorry.ConnectError):
        sys.exit(f"No server answers at {args.base_url}. Start one with: lorry serve")


if __name__ == "__main__":
    asyncio.run(main())
