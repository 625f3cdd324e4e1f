"""What a run prints: what is frozen, what is trained, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_server.finetune.adapted_model import MatrixGroup
from lorry_server.finetune.curve import sparkline

HEADINGS = ("layer", "matrices", "in x out", "each learns rank x (in + out)", "trained")


def parameter_table(groups: Sequence[MatrixGroup], *, num_frozen: int, dtype: str) -> str:
    """A row for each kind of adapted layer, then the sums."""
    rows = [HEADINGS, *(_row(group) for group in groups)]
    num_trained = sum(group.num_trained for group in groups)
    rows.append(("", str(sum(group.count for group in groups)), "", "", f"{num_trained:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    share = 100 * num_trained / (num_frozen + num_trained)
    return "\n".join(
        [
            *lines,
            f"frozen   {num_frozen:,} parameters of the base model ({dtype})",
            f"trained  {num_trained:,} parameters of the adapter (float32), {share:.2f} % of all",
        ]
    )


def loss_line(losses: Sequence[float], held_out: Sequence[tuple[int, float]]) -> str:
    """First and last loss with the curve between them, and the held-out ones."""
    line = f"loss {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}"
    if held_out:
        told = ", ".join(f"{loss:.3f} after step {step}" for step, loss in held_out[-4:])
        line += f"\nheld out: {told}"
    return line


def _row(group: MatrixGroup) -> tuple[str, ...]:
    each = f"{group.rank} x ({group.num_inputs:,} + {group.num_outputs:,})"
    if group.num_magnitudes:
        each += f" + {group.num_magnitudes:,} magnitudes"
    shape = f"{group.num_inputs:,} x {group.num_outputs:,}"
    return (group.name, str(group.count), shape, each, f"{group.num_trained:,}")
