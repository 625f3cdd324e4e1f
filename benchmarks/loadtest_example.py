"""The example report of the load test: the default model, three adapters, 1 to 16 streams.

    scripts/example-report

Starts the server, runs `lorry loadtest` as below, and writes docs/examples/loadtest/report.html,
report.json (without line breaks, to be small) and report.png, the top of the page.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from lorry_loadtest.local_server import local_server

ROOT = Path(__file__).resolve().parent.parent
ADAPTERS = ("pirate", "pricing", "supply-chain")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PICTURE = (1280, 1350)
LOAD = (
    *("--sweep", "concurrency:1..16:log2", "--slo", "ttft_p95<250ms,tpot_p95<40ms"),
    *("--prompt-words", "16:64", "--max-tokens", "16:32", "--ignore-eos"),
    *("--adapters", "pirate=2,pricing=1,supply-chain=1", "--base-share", "0.2"),
    *("--canaries", "0.05", "--warmup", "2"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="measured, of each of nine levels")
    parser.add_argument("--browser", default="", help=f"default: the first of {BROWSERS} there is")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "examples" / "loadtest")
    parser.add_argument("--picture-only", action="store_true", help="of the report that is there")
    options = parser.parse_args()
    browser = options.browser or next((name for name in BROWSERS if shutil.which(name)), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed; name one with --browser")
    options.out.mkdir(parents=True, exist_ok=True)
    status = 0
    if not options.picture_only:
        status = measure(options.out, seconds=options.seconds)
    if status in (0, 3):
        take_picture(browser, options.out)
    return status


def measure(out: Path, *, seconds: int) -> int:
    """The exit code of the load test; its page and figures are in `out` unless it could not run."""
    adapters = [f"--adapter={name}={ROOT / 'examples' / 'adapters' / name}" for name in ADAPTERS]
    lorry = Path(sys.executable).parent / "lorry"
    with tempfile.TemporaryDirectory() as folder, local_server(adapters, show=print) as url:
        status = subprocess.run(
            [lorry, "loadtest", "--url", url, *LOAD, "--duration", str(seconds), "--out", "report"],
            cwd=folder,
            check=False,
        ).returncode
        report = Path(folder) / "report"
        if status in (0, 3):
            shutil.copy(report / "report.html", out)
            # one line is a third smaller, and reads the same for `compare` and `--baseline`
            dense = msgspec.json.format((report / "report.json").read_bytes(), indent=-1)
            (out / "report.json").write_bytes(dense + b"\n")
    return status


def take_picture(browser: str, out: Path) -> None:
    """The top of the page in its light colours."""
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars"),
            f"--window-size={PICTURE[0]},{PICTURE[1]}",
            f"--screenshot={out / 'report.png'}",
            (out / "report.html").resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
