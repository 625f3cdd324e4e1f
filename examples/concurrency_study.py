"""What concurrency costs and gives: latency against throughput, as a table and a picture.

    lorry serve --adapter pirate=examples/adapters/pirate     # in one terminal
    python examples/concurrency_study.py --adapter pirate     # in another

Each point of the study holds a number of requests in flight and sends a new one whenever one has
ended. With an adapter there are three curves: the base model, the adapter, and both in turn in one
batch. Every point is written to `--journal` when it is measured; run it again to add levels.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import lorry


async def study(args: argparse.Namespace) -> lorry.SweepResult:
    mixes: list[str | list[str | None] | None] = [None]
    if args.adapter is not None:
        mixes += [args.adapter, [None, args.adapter]]
    async with lorry.AsyncClient(args.base_url) as client:
        return await lorry.sweep(
            client,
            concurrency=args.concurrency,
            adapters=mixes,
            max_tokens=[args.max_tokens],
            requests_per_point=args.requests,
            journal=args.journal,
            on_point=print,
            ignore_eos=True,
            temperature=0,
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="of a `lorry serve`")
    parser.add_argument("--adapter", help="the name of an adapter that is served")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=60, help="that count, at each point")
    parser.add_argument("--journal", type=Path, help="a file that the points are kept in")
    parser.add_argument("--picture", type=Path, default=Path("concurrency_study.svg"))
    args = parser.parse_args()
    try:
        result = await study(args)
    except lorry.ConnectError:
        sys.exit(f"No server answers at {args.base_url}. Start one with: lorry serve")
    except (TypeError, ValueError, lorry.ClientError) as error:
        sys.exit(str(error))
    print(f"\n{result}\n")
    result.plot(args.picture)
    print(f"The picture is {args.picture}.")


if __name__ == "__main__":
    asyncio.run(main())
