"""Tables of what must add up: tokens, stalls, the gate, and figures by other tools' formulas."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorry_loadtest.gate.gate import GateResult
from lorry_loadtest.headline import format_ms, load_label
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.metrics_compat import CompatTable
from lorry_loadtest.server_counters import OUTPUT_TOKENS, growth
from lorry_loadtest.stalls import Stall
from lorry_loadtest.summary import LevelSummary


def token_rows(runs: Sequence[LevelRun], levels: Sequence[LevelSummary]) -> str:
    """Output tokens of each level, counted three times."""
    rows = ""
    for run, level in zip(runs, levels, strict=True):
        attempts = run.measured
        usage = sum(record.usage_completion or 0 for record in attempts)
        events = sum(sum(record.event_tokens) for record in attempts)
        counter = (
            growth(
                run.facts.observations.server,
                OUTPUT_TOKENS,
                start_ns=min(record.t_sched_ns for record in attempts),
                end_ns=max(record.t_end_ns for record in attempts),
            )
            if attempts
            else None
        )
        told = "not read" if counter is None else f"{counter:,.0f}"
        differ = usage != events or (counter is not None and counter != usage)
        rows += (
            f'<tr><th class="left">{escape(load_label(level))}</th><td>{usage:,}</td>'
            f"<td>{events:,}</td><td>{told}</td>"
            f'<td class="{"bad" if differ else "met"}">{"differ" if differ else "agree"}</td></tr>'
        )
    return (
        '<table><thead><tr><th class="left">Level</th><th>usage</th><th>sum over events</th>'
        f"<th>server's counter</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
    )


def stall_rows(stalls: Sequence[Stall], *, base_model: str) -> str:
    rows = "".join(
        f"<tr><td>{stall.start_ns / 1e9:.2f} s</td><td><b>{format_ms(stall.gap_ms)}</b></td>"
        f'<td class="left">{escape(stall.request_id or str(stall.index))}</td>'
        f'<td class="left">{escape(stall.adapter or base_model)}</td>'
        f'<td class="left note">{escape(stall.cause)}</td></tr>'
        for stall in stalls
    )
    return (
        '<table><thead><tr><th>At</th><th>Gap</th><th class="left">Request</th>'
        '<th class="left">Adapter</th><th class="left">What the server did</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def gate_rows(results: Sequence[GateResult]) -> str:
    kinds = {"pass": "pass", "regression": "fail", "undecided": "warn"}
    rows = ""
    for result in results:
        change = (
            f"<td>{result.baseline:,.2f}</td><td>{result.candidate:,.2f}</td>"
            f"<td><b>{100 * (result.ratio - 1):+.1f} %</b></td>"
            f"<td>{100 * (result.low - 1):+.1f} to {100 * (result.high - 1):+.1f} %</td>"
            f"<td>{result.power:.0%}</td>"
            if result.ratio
            else "<td></td>" * 5
        )
        rows += (
            f'<tr><th class="left">{escape(str(result.limit))}</th>'
            f'<td class="left"><span class="pill {kinds[result.status]}">{result.status}</span></td>'
            f'{change}<td>{result.num_pairs:,}</td><td class="left note">{escape(result.reason)}</td></tr>'
        )
    return (
        '<table><thead><tr><th class="left">Limit</th><th></th><th>Baseline</th><th>Now</th>'
        '<th>Change</th><th>95 % interval</th><th>Power</th><th>Pairs</th><th class="left"></th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def compat_rows(table: CompatTable) -> str:
    rows = "".join(
        f'<tr><th class="left">{escape(figure.name)}</th><td>{figure.n:,}</td>'
        f"<td>{figure.mean:,.2f}</td><td>{figure.p50:,.2f}</td><td>{figure.p99:,.2f}</td></tr>"
        for figure in table.figures
    )
    return (
        '<table><thead><tr><th class="left">ms</th><th>n</th><th>mean</th><th>p50</th><th>p99</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
