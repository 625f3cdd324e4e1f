"""`DoctorReport`: what an adapter's examination found, as plain data that encodes to JSON."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_server.lora.misfits import WrongShape
from lorry_server.lora.module_names import ModuleGroup, Unmatched
from lorry_server.lora.parity import Parity
from lorry_server.lora.update_norms import UpdateNorms

OK, NOTE, WARN, REFUSE = "ok", "note", "warn", "refuse"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about the adapter. `severity` is "note", "warn" or "refuse"."""

    severity: str
    code: str  # what it is about, for programs
    message: str


@dataclass(frozen=True, slots=True)
class Range:
    smallest: float
    largest: float


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What the adapter says of its base, and what is served.

    `same_shape` and `same_weights` compare the halves of the two fingerprints; None where the
    adapter recorded none.
    """

    named: str | None
    served: str | None
    recorded_fingerprint: str | None
    served_fingerprint: str | None
    same_shape: bool | None
    same_weights: bool | None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Everything that was looked at; `verdict` is that of the worst finding, or "ok".

    Lists of names hold at most 20; the number beside them says how many there are. What is about
    LoRA matrices is None for an adapter that has none.
    """

    verdict: str
    findings: tuple[Finding, ...]
    digest: str
    features: tuple[str, ...]
    num_tensors: int | None
    num_modules: int
    num_parameters: int
    num_bytes: int
    rank: Range | None
    scaling: Range | None
    modules: tuple[ModuleGroup, ...]
    num_unmatched: int
    unmatched: tuple[Unmatched, ...]
    num_wrong_shapes: int
    wrong_shapes: tuple[WrongShape, ...]
    update_norms: UpdateNorms | None
    base: BaseModel
    parity: Parity | None
    wall_ms: float

    @property
    def refusal(self) -> str | None:
        """Why the adapter must not be served, in sentences; None where it may be."""
        reasons = [finding.message for finding in self.findings if finding.severity == REFUSE]
        return " ".join(reasons) or None
