"""The page `/lorry` beside locust's own: the report's curves while the test runs."""

from __future__ import annotations

import time
from importlib import resources
from typing import Any

import gevent

from lorry_loadtest.live import LiveSummary
from lorry_loadtest.live_history import LiveHistory
from lorry_loadtest.report.live_fragment import live_fragment

_INTERVAL_S = 2.0


def attach_live_page(environment: Any) -> None:
    """Adds it where there is a web UI; workers and headless runs have none."""
    if environment.web_ui is None or getattr(environment, "lorry_page", None) is not None:
        return
    environment.lorry_page = LivePage(environment)


class LivePage:
    """Follows whatever test the environment runs; a new test begins a new history."""

    def __init__(self, environment: Any) -> None:
        from flask import Blueprint  # locust brings it; a worker does without

        self._environment = environment
        self._history = LiveHistory()
        self._run: Any = None
        self._started_s = 0.0
        ui = environment.web_ui
        pages = Blueprint("lorry", "lorry_loadtest")
        pages.add_url_rule("/lorry", "page", ui.auth_required_if_enabled(self._page))
        pages.add_url_rule("/lorry/now", "now", ui.auth_required_if_enabled(self.fragment))
        ui.app.register_blueprint(pages)
        self._follower = gevent.spawn(self._follow)

    def sample(self, now_s: float) -> None:
        """One point of the running test; nothing while none runs."""
        run = getattr(self._environment, "lorry_run", None)
        if run is None:
            return
        if run is not self._run:
            self._run, self._history, self._started_s = run, LiveHistory(), now_s
            return
        if self._environment.runner.state in ("spawning", "running", "stopping", "cleanup"):
            self._history.sample(now_s - self._started_s, run.live)

    def fragment(self) -> str:
        live = LiveSummary() if self._run is None else self._run.live
        return live_fragment(self._history.points, live)

    def _page(self) -> str:
        style = resources.files("lorry_loadtest.report").joinpath("style.css").read_text("utf-8")
        style += ".past { fill: var(--p50); opacity: .35; }"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Load test, live</title><style>{style}</style></head><body><main>"
            '<header><div class="brand">Lorry load test · every two seconds · histograms, to within 1 % '
            "· the report has exact figures</div><h1>The test as it runs</h1></header>"
            f'<div id="now">{self.fragment()}</div></main><script>{_SCRIPT}</script></body></html>\n'
        )

    def _follow(self) -> None:
        while True:
            self.sample(time.monotonic())
            gevent.sleep(_INTERVAL_S)


_SCRIPT = (
    "setInterval(async()=>{try{const a=await fetch('lorry/now');"
    "if(a.ok)document.getElementById('now').innerHTML=await a.text()}catch(e){}},2000)"
)
