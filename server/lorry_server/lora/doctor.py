"""`examine`: does this adapter do what its author meant, on this model?

`read_adapter` refuses what cannot be read. The doctor looks at what can: whether every module has
its layer and shape, how large the updates are, whether the base is the one of the training, and
whether what would be served equals what a merged layer would answer.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from lorry_server.lora.adapter import Adapter
from lorry_server.lora.base_fingerprint import recorded_fingerprint
from lorry_server.lora.doctor_report import (
    NOTE,
    OK,
    REFUSE,
    WARN,
    BaseModel,
    DoctorReport,
    Finding,
    Range,
)
from lorry_server.lora.misfits import Misfits, find_misfits
from lorry_server.lora.model_facts import ModelFacts
from lorry_server.lora.module_names import Unmatched, group_modules
from lorry_server.lora.parity import EXPLAINED, Parity, measure_parity
from lorry_server.lora.raw_adapter import RawAdapter
from lorry_server.lora.update_norms import UpdateNorms, summarize, update_norms

MAX_NAMES = 20
# A relative error from here on is no arithmetic: the update served is another one.
ANOTHER_UPDATE = 0.5
LARGE_UPDATE = 4.0  # times the base's own output, for random inputs


def examine(
    adapter: Adapter, model: ModelFacts | None, *, allow_partial: bool = False
) -> DoctorReport:
    """Examine an adapter that was read, on `model` or, with None, by itself.

    With `allow_partial` modules that the model does not have are a warning. Raises nothing: what is
    wrong is in the report. Takes some 50 ms for a small model's adapter, whatever the model's size.
    """
    started_s = time.perf_counter()
    findings: list[Finding] = []
    raw = _read_again(adapter, findings)
    lora = {**adapter.modules, **adapter.embedding}
    norms = update_norms(lora)
    misfits = find_misfits(adapter, model)
    base = _base(adapter, raw, model)
    scalings = {module: weights.scaling for module, weights in lora.items()}
    summary = summarize(norms) if norms else None
    findings += _about_fit(adapter, model, misfits, allow_partial=allow_partial)
    findings += _about_base(base)
    if raw is not None:
        findings += _about_config(adapter, raw)
    if summary is not None:
        findings += _about_updates(summary, num_modules=len(norms), scalings=scalings)
    parity = None
    if raw is not None and not misfits.wrong_shapes:
        parity = _parity(adapter, raw, model, norms, findings)
    severities = {finding.severity for finding in findings}
    return DoctorReport(
        verdict=REFUSE if REFUSE in severities else WARN if WARN in severities else OK,
        findings=tuple(findings),
        digest=adapter.digest,
        features=adapter.features,
        num_tensors=len(raw.tensors) if raw is not None else None,
        num_modules=len(adapter.names),
        num_parameters=sum(_num_parameters(adapter)),
        num_bytes=adapter.num_bytes,
        rank=_range(weights.rank for weights in lora.values()),
        scaling=_range(scalings.values()),
        modules=group_modules(
            {module: (weights.rank, scalings[module]) for module, weights in lora.items()}
        ),
        num_unmatched=len(misfits.unmatched),
        unmatched=misfits.unmatched[:MAX_NAMES],
        num_wrong_shapes=len(misfits.wrong_shapes),
        wrong_shapes=misfits.wrong_shapes[:MAX_NAMES],
        update_norms=summary,
        base=base,
        parity=parity,
        wall_ms=round((time.perf_counter() - started_s) * 1e3, 3),
    )


def _read_again(adapter: Adapter, findings: list[Finding]) -> RawAdapter | None:
    try:
        return RawAdapter.read(adapter.path)
    except (OSError, ValueError) as exc:
        findings.append(Finding(NOTE, "changed", f"Its files cannot be read again: {exc}."))
        return None


def _about_fit(
    adapter: Adapter,
    model: ModelFacts | None,
    misfits: Misfits,
    *,
    allow_partial: bool,
) -> Iterator[Finding]:
    if model is None:
        return
    total = len(adapter.names)
    unmatched, wrong_shapes = misfits.unmatched, misfits.wrong_shapes
    if wrong_shapes:
        first = wrong_shapes[0]
        yield Finding(
            REFUSE,
            "wrong_shapes",
            f"{len(wrong_shapes)} of its {total} parts are for layers of another shape than "
            f"{model.model_id}'s: {first.module!r} is {_shape(first.given)} and the layer is "
            f"{_shape(first.wanted)}. It was trained on another model.",
        )
    by_hint: dict[str, list[Unmatched]] = defaultdict(list)
    for one in unmatched:
        by_hint[one.hint].append(one)
    is_none = len(unmatched) == total
    for hint, alike in by_hint.items():
        nearest = f" (nearest: {alike[0].nearest!r})" if alike[0].nearest is not None else ""
        yield Finding(
            WARN if allow_partial and not is_none else REFUSE,
            "unmatched_modules",
            f"{len(alike)} of its {total} parts match no layer of {model.model_id}: {hint}, for "
            f"example {alike[0].module!r}{nearest}.",
        )
    if is_none:
        yield Finding(
            REFUSE, "nothing_matches", "Nothing of it would be applied, and the base would answer."
        )


def _base(adapter: Adapter, raw: RawAdapter | None, model: ModelFacts | None) -> BaseModel:
    recorded = recorded_fingerprint(adapter.path)
    served = model.fingerprint if model is not None else None
    is_known = recorded is not None and served is not None
    of_recorded, of_served = _halves(recorded), _halves(served)
    return BaseModel(
        named=raw.base_model if raw is not None else None,
        served=model.model_id if model is not None else None,
        recorded_fingerprint=recorded,
        served_fingerprint=served,
        same_shape=of_recorded[0] == of_served[0] if is_known else None,
        same_weights=of_recorded[1] == of_served[1] if is_known else None,
    )


def _about_base(base: BaseModel) -> Iterator[Finding]:
    if base.same_shape is False:
        yield Finding(
            REFUSE,
            "another_base",
            f"It was trained on a model of another shape than {base.served}: the fingerprint in its "
            f"lorry.json is {base.recorded_fingerprint}, that of the model is "
            f"{base.served_fingerprint}. Serve it with its own base"
            + (f", {base.named!r}." if base.named else "."),
        )
    elif base.same_weights is False:
        yield Finding(
            WARN,
            "other_weights",
            f"It was trained on weights that are not those of {base.served}, though of the same "
            "shape: a base trained on, or converted in another way. Its answers may be worse than "
            "they were in training.",
        )
    elif base.same_weights is None and base.named and base.served:
        named, served = _last_name(base.named), _last_name(base.served)
        if named == served:
            return
        # A path says little, and "-Q8_0" behind a name may be the same model in another form.
        is_path = base.named.startswith(("/", ".", "~")) or "\\" in base.named
        is_form = named.startswith(served) or served.startswith(named)
        yield Finding(
            NOTE if is_path or is_form else WARN,
            "base_name",
            f"It names {base.named[:256]!r} as its base, and {base.served} is served. No "
            "fingerprint is recorded, so nothing more is known.",
        )


def _about_config(adapter: Adapter, raw: RawAdapter) -> Iterator[Finding]:
    others = [
        (module, declared, weights.scaling)
        for module, weights in adapter.modules.items()
        if not math.isclose(
            declared := raw.scaling(module, rank=weights.rank), weights.scaling, rel_tol=1e-6
        )
    ]
    if others:
        module, declared, actual = others[0]
        yield Finding(
            REFUSE,
            "scaling_differs",
            f"The scaling of {len(others)} of its modules is not what adapter_config.json says now: "
            f"{module!r} was read with {actual:g}, declared is {declared:g}. The folder has changed "
            "while it was read; load it again.",
        )
    missing = [
        target
        for target in raw.target_modules
        if not any(f".{name}.".find(f".{target}.") >= 0 for name in adapter.names)
    ]
    if missing:
        yield Finding(
            WARN,
            "target_without_tensors",
            f"target_modules names {', '.join(map(repr, missing[:MAX_NAMES]))}, and the file has no "
            "tensors for it: part of the adapter may have been lost when it was saved.",
        )


def _about_updates(
    norms: UpdateNorms, *, num_modules: int, scalings: Mapping[str, float]
) -> Iterator[Finding]:
    if norms.num_zero == num_modules:
        yield Finding(
            WARN,
            "does_nothing",
            "Every update is zero, as before training: its answers are the base model's.",
        )
    elif norms.num_zero:
        rest = "" if norms.num_zero <= 3 else ", ..."
        yield Finding(
            WARN,
            "zero_updates",
            f"The updates of {norms.num_zero} of its {num_modules} modules are zero: "
            f"{', '.join(map(repr, norms.zero[:3]))}{rest}.",
        )
    negative = [module for module, scaling in scalings.items() if scaling < 0]
    if negative:
        yield Finding(
            WARN,
            "negative_scaling",
            f"lora_alpha makes the scaling of {len(negative)} modules negative, as of "
            f"{negative[0]!r}: what was trained is subtracted.",
        )


def _parity(
    adapter: Adapter,
    raw: RawAdapter,
    model: ModelFacts | None,
    norms: Mapping[str, float],
    findings: list[Finding],
) -> Parity | None:
    try:
        parity = measure_parity(adapter, raw, model, norms)
    except (OSError, ValueError, KeyError) as exc:
        findings.append(Finding(NOTE, "no_parity", f"Parity could not be measured: {exc}."))
        return None
    if parity is None:
        return None
    for figure in parity.unexplained:
        is_another = not figure.relative_error < ANOTHER_UPDATE
        findings.append(
            Finding(
                REFUSE if is_another else WARN,
                "parity",
                f"Served in {figure.precision}, the update of {figure.module!r} differs from a "
                f"merged layer's by {figure.relative_error:.1%} of its size; "
                f"{EXPLAINED[figure.precision]:.2%} is explained by the arithmetic.",
            )
        )
    largest = max(parity.modules, key=lambda figure: figure.update_to_base or 0.0)
    if (largest.update_to_base or 0.0) > LARGE_UPDATE:
        findings.append(
            Finding(
                WARN,
                "large_update",
                f"The update of {largest.module!r} is {largest.update_to_base:.1f} times as large "
                "as what the base computes there: a diverged training, or a scaling that was not "
                "meant.",
            )
        )
    return parity


def _num_parameters(adapter: Adapter) -> Iterator[int]:
    for weights in (*adapter.modules.values(), *adapter.embedding.values()):
        parts = (weights.a_RI, weights.b_OR, weights.magnitude_O, weights.bias_O)
        yield from (part.numel() for part in parts if part is not None)
    yield from (tensor.numel() for tensor in adapter.replaced.values())
    yield from (tokens.rows_KD.numel() for tokens in adapter.token_rows.values())


def _range(values: Iterable[float]) -> Range | None:
    numbers = [float(value) for value in values]
    return Range(min(numbers), max(numbers)) if numbers else None


def _halves(fingerprint: str | None) -> tuple[str, str]:
    shape, _, weights = (fingerprint or "").partition("-")
    return shape, weights


def _last_name(model: str) -> str:
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
