"""Puts the page together: the answer first, the pictures, the tables, the definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from lorry_loadtest import metrics
from lorry_loadtest.headline import format_streams
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.report.adapter_colors import color_classes
from lorry_loadtest.report.cautions import cautions
from lorry_loadtest.report.definitions import definitions
from lorry_loadtest.report.latency_chart import latency_chart
from lorry_loadtest.report.server_time_chart import PARTS, server_time_chart
from lorry_loadtest.report.tables import adapter_rows, ledger_rows, level_rows, objective_rows
from lorry_loadtest.report.throughput_chart import stream_speed_chart, throughput_chart
from lorry_loadtest.report.tiles import tiles
from lorry_loadtest.report.timeline_chart import MAX_BARS, MAX_LANES, timeline_chart
from lorry_loadtest.result import RunResult
from lorry_loadtest.summary import LevelSummary


def render_page(result: RunResult, runs: Sequence[LevelRun]) -> str:
    """The whole document; `runs` are the levels of `result`, in the same order."""
    style = resources.files("lorry_loadtest.report").joinpath("style.css").read_text("utf-8")
    adapters = [record.adapter for run in runs for record in run.records]
    colors = color_classes(adapters)
    body = "".join(
        [
            _header(result),
            tiles(result.levels),
            _objectives(result.levels),
            _latency(result.levels, runs),
            _throughput(result.levels),
            _levels(result.levels),
            _timeline(result, runs[-1], colors=colors),
            _adapters(result, colors=colors),
            _server_time(result.levels),
            _ledger(result.levels),
            _section("Read this with care", _list(cautions(result, runs))),
            _section("What the words mean", definitions()),
            _how(result),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Load test of {escape(result.info.base_model)}</title>"
        f"<style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def _header(result: RunResult) -> str:
    info = result.info
    num_adapters = sum(1 for name in info.adapters if name != info.base_model)
    facts = [
        ("Model", info.base_model),
        ("Adapters", str(num_adapters) if num_adapters else "none"),
        ("Prompts", f"{info.prompt_words} words"),
        ("max_tokens", info.max_tokens),
        ("Each level", f"{info.duration_s:g} s after {info.warmup_s:g} s of warm-up"),
        ("Seed", str(info.seed)),
    ]
    shown = "".join(f"<span>{name} <b>{escape(value)}</b></span>" for name, value in facts)
    remarks = "".join(f'<p class="remark">{escape(remark)}</p>' for remark in result.remarks)
    started = info.started_at.replace("T", " ").replace("+00:00", " UTC")
    return (
        f'<header><div class="brand">Lorry load test · {escape(started)} · {escape(info.url)}</div>'
        f"<h1>{escape(result.headline)}</h1>{remarks}"
        f'<p class="facts">{shown}</p></header>'
    )


def _objectives(levels: Sequence[LevelSummary]) -> str:
    """At which levels each was met; nothing when there are none."""
    if not levels[0].objectives:
        return ""
    return _section(
        "Objectives",
        f'<div class="scroll">{objective_rows(levels)}</div>',
        lead="A request is good when it finished and is by itself under every limit.",
    )


def _latency(levels: Sequence[LevelSummary], runs: Sequence[LevelRun]) -> str:
    charts = [
        latency_chart("Time to first token", metrics.ttft_ms, runs=runs, levels=levels),
        latency_chart("Time per output token", metrics.tpot_ms, runs=runs, levels=levels),
        latency_chart("End to end", metrics.e2e_ms, runs=runs, levels=levels),
    ]
    legend = (
        '<div class="legend">'
        f"<span>{_swatch('p50')} p50</span><span>{_swatch('p95')} p95</span>"
        f"<span>{_ring()} too few requests for this percentile: indicative</span>"
        '<span><svg viewBox="0 0 30 12"><circle class="sample" cx="8" cy="7" r="2"/>'
        '<circle class="sample" cx="15" cy="4" r="2"/><circle class="sample" cx="21" cy="8" r="2"/>'
        "</svg> one request</span><span><b>16</b> concurrent streams</span></div>"
    )
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return _section(
        "Latency against throughput",
        f'{legend}<div class="three">{figures}</div>',
        lead="To the right is more work done, downwards is a faster answer.",
    )


def _throughput(levels: Sequence[LevelSummary]) -> str:
    charts = (
        f"<figure>{throughput_chart(levels)}</figure><figure>{stream_speed_chart(levels)}</figure>"
    )
    return _section(
        "What more streams give",
        f'<div class="two">{charts}</div>',
        lead="All streams together on the left; on the right what each of them is left with.",
    )


def _levels(levels: Sequence[LevelSummary]) -> str:
    return _section("Every level", f'<div class="scroll">{level_rows(levels)}</div>')


def _timeline(result: RunResult, run: LevelRun, *, colors: Mapping[str | None, str]) -> str:
    names = sorted(
        {record.adapter for record in run.records}, key=lambda name: (name is None, name)
    )
    keys = "".join(
        f'<span><i class="key {colors[name]}"></i>{escape(name or result.info.base_model)}</span>'
        for name in names
    )
    failed = any(record.outcome != "ok" for record in run.records)
    failed_key = '<span><i class="key failed"></i>failed</span>' if failed else ""
    rest = f" The first {MAX_LANES} streams are shown." if run.concurrency > MAX_LANES else ""
    if len(run.records) > MAX_BARS:
        rest += f" At most {MAX_BARS:,} requests are shown."
    return _section(
        f"{format_streams(run.concurrency)} in time",
        f'<div class="legend">{keys}{failed_key}</div><figure>'
        f"{timeline_chart(run, colors=colors)}</figure>",
        lead=f"The last level, one lane per stream. A bar is a request: pale until its first token, full while tokens "
        f"come. Short answers leave the batch and others take their place.{rest}",
    )


def _adapters(result: RunResult, *, colors: Mapping[str | None, str]) -> str:
    level = result.levels[-1]
    return _section(
        f"Adapters at {format_streams(level.concurrency)}",
        f'<div class="scroll">{adapter_rows(level, info=result.info, colors=colors)}</div>',
    )


def _server_time(levels: Sequence[LevelSummary]) -> str:
    chart = server_time_chart(levels)
    if chart is None:
        return ""
    words = {
        "queue": "waiting for the first step",
        "prefill": "reading the prompt",
        "decode": "first token to last",
        "rest": "network, HTTP and event loops",
    }
    keys = "".join(
        f'<span><i class="key part-{part}"></i>{part}: {words[part]}</span>' for part in PARTS
    )
    return _section(
        "Where the time goes",
        f'<div class="legend">{keys}</div><figure>{chart}</figure>',
        lead="The mean request of each level, as the server split it.",
    )


def _ledger(levels: Sequence[LevelSummary]) -> str:
    return _section(
        "Every attempt",
        f'<div class="scroll">{ledger_rows(levels)}</div>',
        lead="Warm-up and drain included: attempted = ok + failed by class.",
    )


def _how(result: RunResult) -> str:
    info, machine = result.info, result.info.machine
    busiest = max(level.client_cpu_share for level in result.levels)
    facts = {
        "Client": f"lorry {info.version}, locust {machine.locust}, gevent {machine.gevent}, "
        f"Python {machine.python}",
        "Machine": f"{machine.cpu}, {machine.num_cpus} cores, {machine.system}; load average "
        f"{machine.load_average:.1f} before the run",
        "Client's CPU": f"at most {busiest:.0%} of one core",
        "Route": f"{'/v1/chat/completions' if info.route == 'chat' else '/v1/completions'}, streamed, "
        f"greedy{', ignore_eos' if info.ignore_eos else ''}",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return _section("How to repeat it", f"<pre>{escape(info.command)}</pre><dl>{rows}</dl>")


def _section(title: str, body: str, *, lead: str = "") -> str:
    intro = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>"


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="cautions">{items}</ul>'


def _swatch(kind: str) -> str:
    return (
        f'<svg viewBox="0 0 30 12"><polyline class="{kind} curve" points="0,6 30,6"/>'
        f'<circle class="{kind} mark" cx="15" cy="6" r="4"/></svg>'
    )


def _ring() -> str:
    return (
        '<svg viewBox="0 0 30 12"><circle class="p50 mark ring" cx="8" cy="6" r="4"/>'
        '<circle class="p95 mark ring" cx="22" cy="6" r="4"/></svg>'
    )
