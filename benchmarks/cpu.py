"""Our server on a plain CPU beside its peers, in turn on one machine, as one table.

    .venv/bin/python benchmarks/cpu.py --openvino-python DIR/bin/python --out cpu.json

DIR is a virtual environment with `pip install openvino-genai`. `--quick` tries every section in a
few minutes, with figures that mean nothing. Peers that run already are given by their URLs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from cpu_sections.bench import SECTIONS, Bench
from cpu_sections.comma_lists import add_only, counts, names_among
from cpu_sections.run_sections import new_report, run_sections

# Of two Zen 4 cores at rest; the steps section also measures both rates as it finds them.
BANDWIDTH_GB_S = 29.0
PEAK_GOP_S = 800.0


def main() -> int:
    """Run the chosen sections."""
    options = parse_arguments()
    report = new_report(options.out)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, report, Path(folder))
        return run_sections(report, options.only, bench.run)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="lorry on a CPU beside its peers, as one table")
    add = parser.add_argument
    add_only(parser, SECTIONS)
    add("--rounds", type=int, default=3, help="of each comparison; the median ratio is shown")
    add("--concurrency", type=counts, default=[1, 4, 16, 32], metavar="N,N")
    add("--adapter-concurrency", type=int, default=16, metavar="N")
    add("--limit-s", type=float, default=420.0, help="no round of a section begins after this")
    add("--quick", action="store_true", help="least work in every section, to see that it runs")
    add("--out", type=Path, metavar="FILE", help="JSON with the rows and the raw figures")
    add("--model", metavar="M", help="as for lorry serve; the default is SmolLM2-135M-Instruct")
    add(
        "--server-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="one more flag of lorry serve, as --server-flag=--threads=2; may be repeated",
    )
    add("--openvino-python", metavar="PATH", help="an interpreter that has openvino-genai")
    add(
        "--openvino-model",
        type=Path,
        metavar="PATH",
        help="a GGUF file or an exported folder, in place of the bundled model",
    )
    add(
        "--openvino-weights",
        type=names_among(("q4_1", "q8_0")),
        default=["q4_1", "q8_0"],
        metavar="A,B",
        help="of the bundled model: q4_1 as it comes, q8_0 for the same values in eight bits",
    )
    add("--llama-url", metavar="URL", help="a llama.cpp server that runs already")
    add("--vllm-url", metavar="URL", help="a vLLM server that runs already")
    add("--bandwidth", type=float, default=BANDWIDTH_GB_S, metavar="GB_S", help="for the floor")
    add("--peak", type=float, default=PEAK_GOP_S, metavar="GOP_S", help="for the floor, int8")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
        options.concurrency = options.concurrency[:2]
        options.adapter_concurrency = min(options.adapter_concurrency, 8)
    if options.model is not None and options.openvino_model is None and options.openvino_python:
        parser.error("--model needs --openvino-model: OpenVINO must have the same model")
    return options


if __name__ == "__main__":
    sys.exit(main())
