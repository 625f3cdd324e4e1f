"""Topics in customer comments: many prompts in one call, answered in order.

    lorry serve                       # in one terminal
    python examples/topic_batch.py    # in another

Every comment goes into the same prompt, which shows a small base model by examples what is wanted.
All prompts are sent at once, in two ways: as one completion whose prompt is a list (`openai`), and
as `generate_many` (`lorry`). The server batches them and computes the part that they share once.
Sampling is greedy, so both ways find the same topics.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from time import perf_counter

import openai

import lorry

COMMENTS = {
    101: "The parcel came two weeks late and nobody told me why.",
    102: "Lovely jacket, but the zip broke on the second day.",
    103: "The app is slow and crashes when I pay.",
    104: "I was charged twice and I am still waiting for the refund.",
    105: "The lady on the phone was very patient and helpful.",
    106: "Great quality for the price, I would buy these shoes again.",
    107: "The box was crushed and one of the cups was broken.",
    108: "I cannot find the size chart anywhere on the website.",
    109: "These shoes are too expensive and too small.",
    110: "The courier left my package out in the rain.",
    111: "Support never answered any of my three emails.",
    112: "Fast delivery and a beautiful lamp, thank you!",
}

PROMPT = """\
What is each comment about?

Comment: The driver was late again and very rude.
Topics: late delivery, rude driver

Comment: This kettle leaks, and the shop does not answer my letters.
Topics: leaking kettle, no answer

Comment: The website is slow, but the prices are good.
Topics: slow website, good prices

Comment: The vase was wrapped badly and arrived in pieces.
Topics: bad packaging, broken vase

Comment: My new coat is warm, and your staff were so kind.
Topics: warm coat, kind staff

Comment: {comment}
Topics:"""

MAX_TOKENS = 16
STOP = "\n"  # the line of topics is over, and the model would go on to invent a comment


def topics_in(text: str) -> str:
    """Return the topics that the model wrote, without repetitions."""
    topics = (topic.strip().lower() for topic in text.split(","))
    return ", ".join(dict.fromkeys(topic for topic in topics if topic))


async def with_openai(base_url: str, prompts: list[str], *, model: str | None) -> list[str]:
    key = os.environ.get("LORRY_API_KEY", "not needed without --api-key")
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key) as client:
        if model is None:
            model = (await client.models.list()).data[0].id
        completion = await client.completions.create(
            model=model, prompt=prompts, max_tokens=MAX_TOKENS, stop=STOP, temperature=0
        )
        return [choice.text for choice in completion.choices]


async def with_lorry(base_url: str, prompts: list[str], *, model: str | None) -> list[str]:
    async with lorry.AsyncClient(base_url) as client:
        generations = await client.generate_many(
            prompts, adapter=model, max_tokens=MAX_TOKENS, stop=STOP, temperature=0
        )
        return [generation.text for generation in generations]


def show(first: list[str], second: list[str]) -> None:
    print(f"{'id':<4} {'comment':<60} {'openai, list of prompts':<34} lorry, generate_many")
    for (comment_id, comment), one, other in zip(COMMENTS.items(), first, second, strict=True):
        print(f"{comment_id:<4} {comment:<60} {topics_in(one):<34} {topics_in(other)}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="of a `lorry serve`")
    parser.add_argument("--model", help="the name of an adapter; without it, the base model")
    args = parser.parse_args()
    prompts = [PROMPT.format(comment=comment) for comment in COMMENTS.values()]
    try:
        began_s = perf_counter()
        first = await with_openai(args.base_url, prompts, model=args.model)
        between_s = perf_counter()
        second = await with_lorry(args.base_url, prompts, model=args.model)
        ended_s = perf_counter()
    except (openai.APIConnectionError, lorry.ConnectError):
        sys.exit(f"No server answers at {args.base_url}. Start one with: lorry serve")
    show(first, second)
    print(f"\n{len(prompts)} comments: {between_s - began_s:.2f} s, {ended_s - between_s:.2f} s")
    if first != second:
        sys.exit("The two ways gave different answers.")
    print("Both ways gave the same answers.")


if __name__ == "__main__":
    asyncio.run(main())
