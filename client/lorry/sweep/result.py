"""`SweepResult`: the points of a study as a table, a picture, records, and a file."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from lorry.distribution import Distribution, format_rate, format_seconds
from lorry.sweep.confidence import Estimate, Latency
from lorry.sweep.plot import latency_against_throughput
from lorry.sweep.point import StudySetting, SweepPoint
from lorry.sweep.study_file import append_point, begin_study, read_study
from lorry.table import html_table, text_table

_HEAD = (
    "adapters, max_tokens",
    "load",
    "n",
    "failed",
    "tok/s",
    *("ttft p50", "ttft p95"),
    *("tpot p50", "tpot p95"),
    *("e2e p50", "e2e p95"),
    "trust",
)
_NOTE = "ttft and e2e from when a request was due; ± is a 95 % interval"
_LEFT_OUT = "left out: {warmup} requests of warm-up, {drain} that kept the load up to the end"


@dataclass(frozen=True, slots=True, repr=False)
class SweepResult:
    """The measured points of a study, curve by curve.

    Shows itself as a table in a shell and with its picture in a notebook. `to_records` gives rows
    for pandas; `to_jsonl` writes what `SweepResult.read` and `sweep(journal=...)` read.
    """

    setting: StudySetting
    points: tuple[SweepPoint, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """From a file of `to_jsonl` or of `sweep(journal=...)`; ConfigError if it is neither."""
        study = read_study(Path(path))
        return cls(study.setting, study.points)

    @property
    def is_trustworthy(self) -> bool:
        """Whether no point has a caution."""
        return all(point.is_trustworthy for point in self.points)

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write setting, environment, figures and every request; replaces a file that is there."""
        begin_study(Path(path), self.setting)
        for point in self.points:
            append_point(Path(path), point)

    def to_records(self, per: Literal["point", "request"] = "point") -> list[dict[str, Any]]:
        """Flat rows, one per point or one per request; times in seconds."""
        if per == "point":
            return [_point_row(point) for point in self.points]
        if per == "request":
            return [
                _setting_row(point) | msgspec.structs.asdict(record)
                for point in self.points
                for record in point.records
            ]
        raise ValueError(f"per is {per!r}; it must be 'point' or 'request'")

    def to_pandas(self, per: Literal["point", "request"] = "point") -> Any:
        """The records as a `pandas.DataFrame`; raises ModuleNotFoundError without pandas."""
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_pandas needs pandas: pip install pandas; to_records gives the same rows without",
                name=error.name,
            ) from error
        return pandas.DataFrame.from_records(self.to_records(per))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write the picture, latency against throughput, as an SVG that follows light and dark."""
        target = Path(path)
        if target.suffix != ".svg":
            raise ValueError(f"path ends in {target.suffix!r}; the picture is an '.svg'")
        target.write_text(self._repr_svg_(), encoding="utf-8")

    def __str__(self) -> str:
        lines = [text_table(_HEAD, self._rows(), num_left=2), self._note()]
        for point in self.points:
            lines += [f"{point.setting}: {said}" for said in (*point.cautions, *point.remarks)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return latency_against_throughput(self.points)

    def _repr_html_(self) -> str:
        said = "".join(
            f"<li>{escape(str(point.setting))}: {escape(sentence)}</li>"
            for point in self.points
            for sentence in (*point.cautions, *point.remarks)
        )
        table = html_table(_HEAD, self._rows(), num_left=2)
        return f"{self._repr_svg_()}{table}<p>{self._note()}</p>" + (
            f"<ul>{said}</ul>" if said else ""
        )

    def _note(self) -> str:
        left_out = _LEFT_OUT.format(
            warmup=sum(point.num_warmup for point in self.points),
            drain=sum(point.num_drain for point in self.points),
        )
        return f"{_NOTE}; {left_out}"

    def _rows(self) -> list[list[str]]:
        return [_table_row(point) for point in self.points]


def _table_row(point: SweepPoint) -> list[str]:
    times = (point.ttft_from_intended, point.tpot, point.e2e)
    return [
        point.setting.curve,
        point.setting.load,
        str(point.num_measured),
        str(point.num_failed),
        _rate(point.output_tokens_per_s),
        *(_seconds(estimate) for latency in times for estimate in (latency.p50, latency.p95)),
        "yes" if point.is_trustworthy else "no",
    ]


def _rate(estimate: Estimate | None) -> str:
    if estimate is None or estimate.high is None:
        return format_rate(None if estimate is None else estimate.value)
    return f"{format_rate(estimate.value)} ± {format_rate(estimate.high - estimate.value)}"


def _seconds(estimate: Estimate | None) -> str:
    return format_seconds(None if estimate is None else estimate.value)


def _setting_row(point: SweepPoint) -> dict[str, Any]:
    setting = point.setting
    return {
        "adapters": " + ".join(name or "" for name in setting.adapters),
        "max_tokens_mix": " + ".join(map(str, setting.max_tokens)),
        "concurrency": setting.concurrency,
        "arrivals": setting.arrivals,
    }


def _point_row(point: SweepPoint) -> dict[str, Any]:
    rate = point.output_tokens_per_s
    row = _setting_row(point) | {
        "started_at": point.started_at,
        "window_s": point.window_s,
        "num_warmup": point.num_warmup,
        "num_measured": point.num_measured,
        "num_failed": point.num_failed,
        "num_drain": point.num_drain,
        "max_in_flight": point.max_in_flight,
        "requests_per_s": point.requests_per_s,
    }
    row |= _estimate_columns("output_tokens_per_s", rate)
    for name in ("ttft", "ttft_from_intended", "tpot", "e2e"):
        latency: Latency = getattr(point, name)
        row[f"{name}_mean_s"] = latency.mean
        for level in ("p50", "p95", "p99"):
            row |= _estimate_columns(f"{name}_{level}_s", getattr(latency, level))
    lag: Distribution = point.loop_lag
    return row | {
        "loop_lag_p99_s": lag.p99,
        "loop_lag_max_s": lag.max,
        "client_cpu_share": point.client_cpu_share,
        "is_trustworthy": point.is_trustworthy,
        "cautions": "; ".join(point.cautions),
        "remarks": "; ".join(point.remarks),
    }


def _estimate_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {
        name: None if estimate is None else estimate.value,
        f"{name}_low": None if estimate is None else estimate.low,
        f"{name}_high": None if estimate is None else estimate.high,
    }
