"""A doctor's report as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lorry_server.lora.doctor_report import BaseModel, DoctorReport, Range
from lorry_server.lora.parity import EXPLAINED, Parity
from lorry_server.lora.update_norms import UpdateNorms

WIDTH = 100
MAX_UNMATCHED = 5
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def report_text(report: DoctorReport, *, path: str) -> str:
    """The whole report, one topic a paragraph, ending in the verdict."""
    return "\n".join(_lines(report, path))


def _lines(report: DoctorReport, path: str) -> Iterator[str]:
    yield _row("adapter", path)
    yield _row("digest", report.digest)
    yield _row(
        "size",
        f"{report.num_modules} modules or tensors, {report.num_parameters:,} numbers, "
        f"{_bytes(report.num_bytes)}",
    )
    yield _row("features", ", ".join(report.features) or "plain LoRA")
    yield from _base_lines(report.base)
    yield ""
    for index, group in enumerate(report.modules):
        yield _row("modules" if index == 0 else "", str(group))
    if report.rank is not None:
        yield _row("rank", _range(report.rank))
    if report.scaling is not None:
        yield _row("scaling", _range(report.scaling))
    if report.update_norms is not None:
        yield _row("norms", _norms(report.update_norms))
    yield _row("parity", "not measured" if report.parity is None else _parity(report.parity))
    yield from _misfit_lines(report)
    yield ""
    for finding in report.findings:
        yield _row(finding.severity, finding.message)
    yield _row("verdict", report.verdict)


def _base_lines(base: BaseModel) -> Iterator[str]:
    yield _row("base", base.named or "not named")
    if base.served is None:
        yield _row("model", "none given: checked by itself (--model M checks the fit)")
        return
    yield _row("model", f"{base.served}, fingerprint {base.served_fingerprint}")
    if base.recorded_fingerprint is None:
        yield _row("", "the adapter records no fingerprint of its base")
    else:
        same = base.same_shape and base.same_weights
        yield _row(
            "", "the base that it was trained on" if same else "not the base of its training"
        )


def _misfit_lines(report: DoctorReport) -> Iterator[str]:
    for wrong in report.wrong_shapes[:MAX_UNMATCHED]:
        yield _row(
            "shape",
            f"{wrong.module}: {_shape(wrong.given)}, the model's is {_shape(wrong.wanted)}",
        )
    for one in report.unmatched[:MAX_UNMATCHED]:
        yield _row("unmatched", f"{one.module} (nearest: {one.nearest or 'none'})")
    more = report.num_unmatched - MAX_UNMATCHED
    if more > 0:
        yield _row("", f"and {more} more")


def _norms(norms: UpdateNorms) -> str:
    return (
        f"||s B A|| from {norms.smallest:.3g} ({norms.smallest_module}) to {norms.largest:.3g} "
        f"({norms.largest_module}), median {norms.median:.3g}, {norms.num_zero} zero"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _parity(parity: Parity) -> str:
    figures = {figure.module: figure for figure in parity.modules}
    precision = figures[parity.worst_module].precision
    against = "a merged layer" if parity.has_base_weights else "s B A x (no base weights at hand)"
    return (
        f"{len(parity.modules)} modules x {parity.num_inputs} inputs as served ({precision}) against "
        f"{against} in float64: worst relative error {parity.relative_error:.2g} "
        f"({parity.worst_module}), largest absolute {parity.max_abs_error:.2g}; "
        f"{EXPLAINED[precision]:g} is explained by the arithmetic"
    )


def _row(name: str, text: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=f"{name:<11}",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """`text` with a mark for whatever a terminal would obey: names are a stranger's."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _range(numbers: Range) -> str:
    if numbers.smallest == numbers.largest:
        return f"{numbers.smallest:g}"
    return f"{numbers.smallest:g} to {numbers.largest:g}"


def _bytes(num_bytes: int) -> str:
    for size, unit in _UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
