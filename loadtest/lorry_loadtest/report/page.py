"""Puts the page together: the answer first, then the pictures, the tables and the definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from lorry_loadtest import metrics
from lorry_loadtest.headline import format_ms, format_streams, load_label
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.report.accounting import compat_rows, gate_rows, stall_rows, token_rows
from lorry_loadtest.report.adapter_colors import color_classes
from lorry_loadtest.report.cautions import cautions
from lorry_loadtest.report.cdf_chart import cdf_charts
from lorry_loadtest.report.definitions import definitions
from lorry_loadtest.report.goodput_chart import goodput_chart
from lorry_loadtest.report.heat_map import heat_map
from lorry_loadtest.report.latency_chart import latency_chart
from lorry_loadtest.report.server_time_chart import PARTS, server_time_chart
from lorry_loadtest.report.server_timeline import server_timeline
from lorry_loadtest.report.swim_lanes import swim_lanes
from lorry_loadtest.report.tables import ledger_rows, level_rows, objective_rows
from lorry_loadtest.report.throughput_chart import stream_speed_chart, throughput_chart
from lorry_loadtest.report.tiles import answering_level, tiles
from lorry_loadtest.report.timeline_chart import MAX_BARS, MAX_LANES, timeline_chart
from lorry_loadtest.report.validity_table import validity_table, verdict_strip
from lorry_loadtest.result import RunResult
from lorry_loadtest.routes import PATHS
from lorry_loadtest.slo import Objective
from lorry_loadtest.summary import LevelSummary
from lorry_loadtest.waterfall import MEANING


def render_page(result: RunResult, runs: Sequence[LevelRun]) -> str:
    """The whole document; `runs` are the levels of `result`, in the same order."""
    style = resources.files("lorry_loadtest.report").joinpath("style.css").read_text("utf-8")
    adapters = [record.adapter for run in runs for record in run.records]
    colors = color_classes(adapters)
    last = _answering_run(result, runs)
    body = "".join(
        [
            _header(result),
            tiles(result.levels),
            _gate(result),
            _objectives(result.levels),
            _latency(result.levels, runs),
            _goodput(result.levels),
            _throughput(result.levels),
            _levels(result.levels),
            _distributions(last),
            _adapters(result, colors=colors),
            _server(last, colors=colors, result=result),
            _timeline(result, last, colors=colors),
            _server_time(result.levels),
            _slowest(result),
            _stalls(result),
            _accounting(result, runs),
            _compat(result),
            _section("Read this with care", _list(cautions(result, runs))),
            _section(
                "Can it be believed",
                validity_table(result.verdict),
                lead="Thirty ways in which a load test can mislead, and what this run showed of each.",
            ),
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
        ("Weights", info.server.weights),
        ("Server", info.server.program),
        ("Load test", f"{info.version} ({info.commit})" if info.commit else info.version),
        ("Adapters", str(num_adapters) if num_adapters else "none"),
        ("Prompts", f"{info.prompt_words} words"),
        ("max_tokens", info.max_tokens),
        ("Each level", f"{info.duration_s:g} s after {info.warmup_s:g} s of warm-up"),
        ("Seed", str(info.seed)),
        ("Stream", result.stream_hash[:12] or "not hashed"),
    ]
    shown = "".join(f"<span>{name} <b>{escape(value)}</b></span>" for name, value in facts if value)
    remarks = "".join(f'<p class="remark">{escape(remark)}</p>' for remark in result.remarks)
    started = info.started_at.replace("T", " ").replace("+00:00", " UTC")
    return (
        f'<header><div class="brand">Lorry load test · {escape(started)} · {escape(info.url)}</div>'
        f"<h1>{escape(result.headline)}</h1>{remarks}{verdict_strip(result)}"
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


def _answering_run(result: RunResult, runs: Sequence[LevelRun]) -> LevelRun:
    """The run of the level that the tiles show."""
    return runs[result.levels.index(answering_level(result.levels))]


def _gate(result: RunResult) -> str:
    if not result.gate:
        return ""
    return _section(
        "Against the baseline",
        f'<div class="scroll">{gate_rows(result.gate)}</div>',
        lead="The same requests on both sides, compared pair by pair. A limit is kept only when the "
        "whole interval keeps it.",
    )


def _latency(levels: Sequence[LevelSummary], runs: Sequence[LevelRun]) -> str:
    objectives = [entry.objective for entry in levels[0].objectives]

    def objective_of(metric: str) -> Objective | None:
        return next((entry for entry in objectives if entry.metric == metric), None)

    charts = [
        latency_chart(name, latency, runs=runs, levels=levels, objective=objective_of(metric))
        for name, latency, metric in (
            ("Time to first token", metrics.ttft_ms, "ttft"),
            ("Time per output token", metrics.tpot_ms, "tpot"),
            ("End to end", metrics.e2e_ms, "e2e"),
        )
    ]
    load = "concurrent streams" if levels[0].rate_per_s is None else "arrivals per second"
    sample = max(level.concurrency for level in levels) if levels[0].rate_per_s is None else "7.4/s"
    line = '<svg viewBox="0 0 30 12"><line class="slo" x1="0" x2="30" y1="6" y2="6"/></svg>'
    objective_key = f"<span>{line} objective</span>" if objectives else ""
    legend = (
        '<div class="legend">'
        f"<span>{_swatch('p50')} p50</span><span>{_swatch('p95')} p95, both with 95 % intervals</span>"
        f"<span>{_ring()} too few requests for this percentile: indicative</span>"
        '<span><svg viewBox="0 0 30 12"><path class="samples" d="M8,7h0M15,4h0M21,8h0"/>'
        f"</svg> one request</span>{objective_key}"
        f"<span><b>{sample}</b> {load}</span>"
        "<span><b>knee</b> most throughput over latency</span></div>"
    )
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return _section(
        "Latency against throughput",
        f'{legend}<div class="three">{figures}</div>',
        lead="To the right is more work done, downwards is a faster answer.",
    )


def _goodput(levels: Sequence[LevelSummary]) -> str:
    if len(levels) < 2 or not levels[0].objectives:
        return ""
    return _section(
        "Goodput against offered load",
        f'<div class="single"><figure>{goodput_chart(levels)}</figure></div>',
        lead="Good is finished and under every objective, of all that were attempted. On the dotted "
        "line every request is good.",
    )


def _distributions(run: LevelRun) -> str:
    charts = cdf_charts(run)
    if not charts:
        return ""
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    legend = (
        f'<div class="legend"><span>{_line("p50")} from the schedule: what a user waits</span>'
        f"<span>{_line('p95')} from the send: what most tools print</span>"
        '<span><i class="key omission"></i>what they leave out</span></div>'
    )
    load = f"{run.rate_per_s:.3g} req/s" if run.rate_per_s else format_streams(run.concurrency)
    return _section(
        f"How latency is spread at {load}",
        f'{legend}<div class="three">{figures}</div>',
        lead="The share of requests that took at most so long.",
    )


def _server(run: LevelRun, *, colors: Mapping[str | None, str], result: RunResult) -> str:
    keys = _adapter_keys(run, colors=colors, base_model=result.info.base_model)
    return _section(
        "The server in time",
        f'<div class="legend">{keys}</div><figure>{server_timeline(run, colors=colors)}</figure>',
        lead="One axis for all rows. What is shaded does not count.",
    )


def _adapter_keys(run: LevelRun, *, colors: Mapping[str | None, str], base_model: str) -> str:
    """One key per colour; adapters beyond the eight colours share one."""
    names = sorted({record.adapter for record in run.records}, key=lambda n: (n is None, n or ""))
    keys = {
        colors[name]: "other adapters" if colors[name] == "other" else name or base_model
        for name in names
    }
    return "".join(
        f'<span><i class="key {color}"></i>{escape(label)}</span>' for color, label in keys.items()
    )


def _slowest(result: RunResult) -> str:
    if not result.slowest:
        return ""
    names = {fall.adapter: fall.adapter or result.info.base_model for fall in result.slowest}
    keys = "".join(
        f'<span><i class="key part-{part}"></i>{part}: {meaning}</span>'
        for part, meaning in MEANING.items()
    )
    keys += '<span><i class="key part-residual"></i>unexplained</span>'
    keys += "<span>thin lines: events as they arrived</span>"
    closed = result.waterfalls_closed or 0.0
    return _section(
        f"The {len(result.slowest)} slowest requests",
        f'<div class="legend">{keys}</div><figure>{swim_lanes(result.slowest, names=names)}</figure>',
        lead=f"Client and server joined by request. {closed:.0%} of all waterfalls of the run leave "
        "less than 2 % unexplained.",
    )


def _stalls(result: RunResult) -> str:
    if not result.stalls:
        return ""
    longest = format_ms(result.stalls[0].gap_ms)
    return _section(
        "Stalls",
        f'<div class="scroll">{stall_rows(result.stalls, base_model=result.info.base_model)}</div>',
        lead=f"{result.num_stalls:,} gaps above five medians and 250 ms, the longest {longest}; each "
        "with the server's step that took most of it.",
    )


def _accounting(result: RunResult, runs: Sequence[LevelRun]) -> str:
    return _section(
        "Every attempt, every token",
        f'<div class="scroll">{ledger_rows(result.levels)}</div>'
        f'<div class="scroll second">{token_rows(runs, result.levels)}</div>',
        lead="Warm-up and drain included: attempted = ok + failed by class. Tokens are counted three "
        "times.",
    )


def _compat(result: RunResult) -> str:
    table = result.compat
    if table is None:
        return ""
    return _section(
        f"By the formulas of {table.tool}",
        f'<div class="scroll">{compat_rows(table)}</div>',
        lead=f"The same {table.num_requests:,} answers as that tool would print them, at "
        f"{table.tokens_per_s:,.1f} output tokens/s by its window. Not to be compared with the "
        "figures above.",
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
    if run.rate_per_s is not None:
        return ""  # arrivals have no lanes of their own
    keys = _adapter_keys(run, colors=colors, base_model=result.info.base_model)
    failed = any(record.outcome != "ok" for record in run.records)
    failed_key = '<span><i class="key failed"></i>failed</span>' if failed else ""
    rest = f" The first {MAX_LANES} streams are shown." if run.concurrency > MAX_LANES else ""
    if len(run.records) > MAX_BARS:
        rest += f" The first {MAX_BARS:,} requests are shown."
    return _section(
        f"{format_streams(run.concurrency)} in time",
        f'<div class="legend">{keys}{failed_key}</div><figure>'
        f"{timeline_chart(run, colors=colors)}</figure>",
        lead="One lane per stream. A bar is a request: pale until its first token, full while tokens "
        f"come. Short answers leave the batch and others take their place.{rest}",
    )


def _adapters(result: RunResult, *, colors: Mapping[str | None, str]) -> str:
    level = answering_level(result.levels)
    fairness = level.fairness
    told = ""
    if fairness is not None:
        told = (
            f" The worst adapter's mean TTFT is {fairness.ttft_worst_to_median or 1.0:.2f} times the "
            f"median one's; Jain's index of decoding speed is {fairness.jain_speed or 1.0:.2f}."
        )
    return _section(
        f"Adapters at {load_label(level)}",
        heat_map(level, info=result.info, colors=colors),
        lead=f"The worst first; the warmer a cell, the further above the median adapter.{told}",
    )


def _server_time(levels: Sequence[LevelSummary]) -> str:
    chart = server_time_chart(levels)
    if chart is None:
        return ""
    words = {
        "load": "making the adapter ready",
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


def _how(result: RunResult) -> str:
    info, machine = result.info, result.info.machine
    busiest = max(level.client_cpu_share for level in result.levels)
    facts = {
        "Client": f"lorry {info.version}, locust {machine.locust}, gevent {machine.gevent}, "
        f"Python {machine.python}",
        "Machine": f"{machine.cpu}, {machine.num_cpus} cores, {machine.system}; load average "
        f"{machine.load_average:.1f} before the run",
        "Client's CPU": f"at most {busiest:.0%} of one core",
        "Route": f"{PATHS[info.route]}, streamed, "
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


def _line(kind: str) -> str:
    return f'<svg viewBox="0 0 30 12"><polyline class="{kind} curve" points="0,6 30,6"/></svg>'


def _ring() -> str:
    return (
        '<svg viewBox="0 0 30 12"><circle class="p50 mark ring" cx="8" cy="6" r="4"/>'
        '<circle class="p95 mark ring" cx="22" cy="6" r="4"/></svg>'
    )
