"""What importing and installing the client costs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_PACKAGES = 12
MAX_RSS_MIB = 35

# libraries that only some calls, or other parts, need
LATE = {
    *("aiohttp", "yarl", "multidict", "httpx", "httpx2", "openai", "pydantic", "numpy"),
    *("torch", "starlette", "locust", "gevent", "uvloop", "opentelemetry", "prometheus_client"),
    *("http.client", "email", "urllib.request", "argparse", "readline", "html", "tomllib"),
}

REPORT = """
import json, sys
names = [name for name in {late!r} if name in sys.modules]
with open("/proc/self/status") as status:
    rss_kib = dict(line.split(":", 1) for line in status)["VmRSS"].split()[0]
print(json.dumps([names, int(rss_kib) / 1024]))
"""


def report(statement: str) -> tuple[list[str], float]:
    """Which of the late libraries are there after a statement, and the memory of the process."""
    code = f"{statement}\n{REPORT.format(late=sorted(LATE))}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    names, rss_mib = json.loads(done.stdout)
    return names, rss_mib


def test_importing_lorry_loads_no_library_that_only_some_calls_need() -> None:
    statement = "import lorry; lorry.AsyncClient('http://x'); lorry.Client('http://x')"

    assert report(statement)[0] == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_importing_lorry_takes_little_memory() -> None:
    bare = min(report("")[1] for _ in range(3))
    loaded = min(report("import lorry")[1] for _ in range(3))

    assert loaded - bare <= MAX_RSS_MIB


def test_the_base_install_is_a_few_packages() -> None:
    installed = closure("lorry")

    assert "aiohttp" in installed
    assert "msgspec" in installed
    assert len(installed) <= MAX_PACKAGES, sorted(installed)


def closure(name: str) -> set[str]:
    """What an install without extras brings, by the metadata of what is installed here."""
    found: set[str] = set()
    open_names = [name]
    while open_names:
        found.add(current := canonicalize_name(open_names.pop()))
        for line in requires(current) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if canonicalize_name(requirement.name) not in found:
                open_names.append(requirement.name)
    return found
