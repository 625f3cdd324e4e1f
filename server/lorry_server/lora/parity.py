"""The parity figure: what is served beside what a merged layer would have answered.

For a few random inputs x and some modules, the update as it is served, B (A x) in the precision of
the layer, is compared with (W + s B A) x - W x in float64. W, A, B and s come from the files again,
through `raw_adapter`, so a mistake in reading, scaling, casting or quantizing shows here as a number.

Shape legend: T input rows, I input and O output features, R rank rows, K sampled output features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.adapter import Adapter, LoraWeights
from lorry_server.lora.base_fingerprint import evenly_spaced
from lorry_server.lora.float_updates import float_update
from lorry_server.lora.int8_updates import int8_update
from lorry_server.lora.model_facts import ModelFacts
from lorry_server.lora.raw_adapter import RawAdapter
from lorry_server.lora.raw_tensors import Floats

SEED = 20
NUM_INPUTS = 4
MAX_MODULES = 8
MAX_OUTPUTS = 64  # of a module: consecutive rows of its weight
INT8 = "int8"

# The relative error that the arithmetic of each precision explains; more deserves a look.
EXPLAINED = {"float64": 1e-4, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2, INT8: 6e-2}


@dataclass(frozen=True, slots=True)
class ModuleParity:
    """Errors of one module's update: the largest, and the norm of all relative to the update's.

    `update_to_base` is the norm of the update's output beside that of the base's, None where the
    base's weights are not at hand.
    """

    module: str
    precision: str
    max_abs_error: float
    relative_error: float
    update_to_base: float | None


@dataclass(frozen=True, slots=True)
class Parity:
    """The figures of the sampled modules and the worst of them.

    `covers` says what of the adapter was compared: the LoRA matrices, nothing else that it may have.
    """

    modules: tuple[ModuleParity, ...]
    max_abs_error: float
    relative_error: float
    worst_module: str
    has_base_weights: bool
    num_inputs: int = NUM_INPUTS
    seed: int = SEED
    covers: str = "lora"

    @property
    def unexplained(self) -> tuple[ModuleParity, ...]:
        """Modules whose error is more than their precision explains; NaN is."""
        return tuple(
            figure
            for figure in self.modules
            if not figure.relative_error <= EXPLAINED[figure.precision]
        )


def measure_parity(
    adapter: Adapter,
    raw: RawAdapter,
    model: ModelFacts | None,
    norms: Mapping[str, float],
) -> Parity | None:
    """Compare at most 8 modules: evenly spaced ones and that of the largest norm.

    Without a model the update is compared in float32, and with s B A x itself. None where there is
    no module to compare. Raises OSError or ValueError where a file has changed since it was read.
    """
    modules = sorted(
        module
        for module in adapter.modules
        if raw.a(module) is not None and (model is None or module in model.layers)
    )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the figures
        figures = tuple(_figures(adapter, raw, model, sampled(modules, norms)))
    if not figures:
        return None
    worst = max(
        figures, key=lambda figure: (np.isnan(figure.relative_error), figure.relative_error)
    )
    return Parity(
        modules=figures,
        max_abs_error=max(figure.max_abs_error for figure in figures),
        relative_error=worst.relative_error,
        worst_module=worst.module,
        has_base_weights=all(figure.update_to_base is not None for figure in figures),
    )


def sampled(modules: Sequence[str], norms: Mapping[str, float]) -> list[str]:
    if len(modules) <= MAX_MODULES:
        return list(modules)
    largest = max(modules, key=norms.__getitem__)
    return sorted({largest, *evenly_spaced(modules, MAX_MODULES - 1)})


def _figures(
    adapter: Adapter, raw: RawAdapter, model: ModelFacts | None, modules: Sequence[str]
) -> Iterator[ModuleParity]:
    random = np.random.default_rng(SEED)
    for module in modules:
        weights = adapter.modules[module]
        num_outputs = weights.b_OR.shape[0]
        num_rows = min(num_outputs, MAX_OUTPUTS)
        start = int(random.integers(num_outputs - num_rows + 1))
        rows = slice(start, start + num_rows)
        x_TI = random.standard_normal((NUM_INPUTS, weights.a_RI.shape[1]), dtype=np.float32)
        precision = precision_of(module, model)
        served_TK = served_update(weights, rows, x_TI, precision=precision)
        stored = raw.a_and_b(module, rows=rows)
        if stored is None:
            continue
        a_RI, b_KR = stored
        # einsum, here and below, starts no threads of its own: cores belong to those who decode.
        delta_KI = raw.scaling(module, rank=len(a_RI)) * np.einsum("KR,RI->KI", b_KR, a_RI)
        base_KI = _base_rows(module, model, rows, like=delta_KI)
        if base_KI is None:
            base_TK, merged_TK = None, _outputs(delta_KI, x_TI)
        else:
            base_TK = _outputs(base_KI, x_TI)
            merged_TK = _outputs(base_KI + delta_KI, x_TI) - base_TK
        error_TK = served_TK - merged_TK
        size = float(np.linalg.norm(merged_TK))
        error = float(np.linalg.norm(error_TK))
        yield ModuleParity(
            module=module,
            precision=precision,
            max_abs_error=float(np.abs(error_TK).max()),
            relative_error=_ratio(error, size),
            update_to_base=None
            if base_TK is None
            else _ratio(size, float(np.linalg.norm(base_TK))),
        )


def precision_of(module: str, model: ModelFacts | None) -> str:
    if model is None:
        return "float32"
    return INT8 if model.layers[module].is_quantized else model.dtype


def served_update(
    weights: LoraWeights, rows: slice, x_TI: npt.NDArray[np.float32], *, precision: str
) -> Floats:
    """Outputs `rows` of B (A x), computed as the layers compute it; float64."""
    b_KR = weights.b_OR[rows]
    x = torch.from_numpy(x_TI)
    part = LinearSlice("", start=0, stop=len(b_KR))
    sampled_rows = LoraWeights(weights.a_RI, b_KR)
    if precision == INT8:
        y_TK = torch.zeros(len(x), len(b_KR))
        int8_update(part, sampled_rows).add_(y_TK, x, None)
    else:
        dtype = getattr(torch, precision)
        y_TK = torch.zeros(len(x), len(b_KR), dtype=dtype)
        update = float_update(part, sampled_rows, dtype=dtype, is_pinned=False)
        update.add_(y_TK, x.to(dtype), None)
    served: Floats = y_TK.double().numpy()
    return served


def _base_rows(
    module: str, model: ModelFacts | None, rows: slice, *, like: Floats
) -> Floats | None:
    stored = model.weight_of(module) if model is not None else None
    if stored is None or not stored.is_float or stored.shape[1:] != like.shape[1:]:
        return None
    base_KI = stored.rows(rows.start, rows.stop)
    return base_KI if base_KI.shape == like.shape else None


def _outputs(w_KI: Floats, x_TI: npt.NDArray[np.float32]) -> Floats:
    outputs: Floats = np.einsum("TI,KI->TK", x_TI.astype(np.float64), w_KI)
    return outputs


def _ratio(size: float, whole: float) -> float:
    if whole == 0:
        return 0.0 if size == 0 else float("inf")
    return size / whole
