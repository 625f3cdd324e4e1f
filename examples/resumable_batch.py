"""A batch that may be interrupted: run it again, and it goes on where it was.

    lorry serve                                       # in one terminal
    python examples/resumable_batch.py notes.jsonl    # in another; press Ctrl-C, and run it again

A title is wanted for each of many notes. The journal gets a line for every note that is finished.
The second run takes those from it and asks the server for the rest only.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import lorry

PLACES = ("harbour", "market", "library", "station", "orchard", "museum", "bakery", "lighthouse")
EVENTS = ("opened late", "was repainted", "lost its key", "found a cat", "ran out of bread")

PROMPT = """Note: The ferry was full, so the band played on the pier.
Title: Music on the pier

Note: {note}
Title:"""


def requests() -> Iterator[lorry.Request]:
    """Made as they are needed, so a million of them would take no more memory."""
    for place in PLACES:
        for event in EVENTS:
            note = f"The {place} {event}."
            yield lorry.Request(PROMPT.format(note=note), tag=note)


async def title_all(base_url: str, journal: Path, *, model: str | None, stop_after: int) -> None:
    async with lorry.AsyncClient(base_url) as client:
        await client.health()  # says at once if there is no server
        run = client.map(
            requests(),
            concurrency=8,
            window=0,
            order="completion",
            on_error="skip",
            journal=journal,
            progress=True,
            adapter=model,
            max_tokens=12,
            stop="\n",
            temperature=0,
        )
        async with run:
            num_titles = 0
            async for generation in run:
                print(f"{generation.tag:<32} {generation.text.strip()}")
                num_titles += 1
                if num_titles == stop_after:
                    break
    stats = run.stats()
    print(
        f"\n{stats.num_from_journal} from the journal, {stats.num_done} from the server, "
        f"{stats.num_failed} failed."
    )
    if run.errors:
        print(f"The first failure: {next(iter(run.errors.values()))}")
    if run.is_cancelled:
        print("Stopped early; run me again.")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("journal", type=Path, help="the file of finished items")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="of a `lorry serve`")
    parser.add_argument("--model", help="the name of an adapter; without it, the base model")
    parser.add_argument(
        "--stop-after", type=int, default=0, help="so many results, as Ctrl-C would"
    )
    args = parser.parse_args()
    try:
        await title_all(args.base_url, args.journal, model=args.model, stop_after=args.stop_after)
    except lorry.ConnectError:
        sys.exit(f"No server answers at {args.base_url}. Start one with: lorry serve")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped; run me again.")
