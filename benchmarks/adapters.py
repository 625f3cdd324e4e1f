"""What many adapters cost and what they may not disturb, as one table.

    .venv/bin/python benchmarks/adapters.py --out adapters.json

Every section starts servers of its own and compares in turn. `--quick` tries all of them in a few
minutes, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from adapter_sections.churn import churn
from adapter_sections.one_too_many import one_too_many
from adapter_sections.overhead import overhead
from adapter_sections.slow_load import slow_load
from cpu_sections.comma_lists import add_only
from cpu_sections.report import Report
from cpu_sections.run_sections import new_report, run_sections

from lorry_server.config import default_cache_dir
from lorry_server.model.source import resolve_model

SECTIONS = ("overhead", "slow-load", "churn", "one-too-many")


def main() -> int:
    """Run the chosen sections."""
    options = parse_arguments()
    report = new_report(options.out)

    def run_alone(section: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(section, options, report, Path(folder))

    return run_sections(report, options.only, run_alone)


def run(section: str, options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Run one of SECTIONS. Raises what starting a server or a loop raises."""
    source = resolve_model(options.model, cache_dir=default_cache_dir(), progress=report.progress)
    config = json.loads((source.path / "config.json").read_text())
    flags = list(options.server_flag)
    if options.model is not None:
        flags.append(f"--model={options.model}")
    rounds, is_quick = options.rounds, options.quick
    if section == "overhead":
        overhead(
            report,
            config,
            folder,
            flags,
            num_adapters=20 if is_quick else 100,
            num_fit=4 if is_quick else 16,
            concurrency=16,
            rounds=rounds,
            limit_s=options.limit_s,
        )
    elif section == "slow-load":
        slow_load(report, config, folder, flags, rounds=rounds, is_quick=is_quick)
    elif section == "churn":
        churn(report, config, folder, flags, num_cycles=50 if is_quick else 1000)
    else:
        one_too_many(
            report, config, folder, flags, seconds=5.0 if is_quick else 20.0, rounds=rounds
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what many adapters cost, as one table")
    add = parser.add_argument
    add_only(parser, SECTIONS)
    add("--rounds", type=int, default=3, help="of each comparison; the median ratio is shown")
    add("--limit-s", type=float, default=420.0, help="no round of a section begins after this")
    add("--quick", action="store_true", help="least work in every section, to see that it runs")
    add("--out", type=Path, metavar="FILE", help="JSON with the rows and the raw figures")
    add("--model", metavar="M", help="as for lorry serve; the default is SmolLM2-135M-Instruct")
    add(
        "--server-flag", action="append", default=[], metavar="FLAG", help="one more of lorry serve"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


if __name__ == "__main__":
    sys.exit(main())
