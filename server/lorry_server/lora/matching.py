"""`AdapterMatcher`: which linear of a model each module of an adapter belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorry_server.errors import AdapterError
from lorry_server.layers.linear import Linear, LinearSlice
from lorry_server.lora.adapter import Adapter, LoraWeights


@dataclass(frozen=True, slots=True)
class MatchedSlice:
    """An adapter's update of one slice of a linear."""

    part: LinearSlice
    weights: LoraWeights


@dataclass(frozen=True, slots=True)
class MatchedAdapter:
    """An adapter by the linears' names, slices in their order; `unmatched` are other modules."""

    by_linear: Mapping[str, tuple[MatchedSlice, ...]]
    unmatched: tuple[str, ...]


class AdapterMatcher:
    """Knows the names and shapes of a model's linears; it keeps none of their weights."""

    def __init__(self, linears: Iterable[Linear]) -> None:
        self._places: dict[str, tuple[str, int, LinearSlice]] = {
            part.name: (linear.name, linear.in_features, part)
            for linear in linears
            for part in linear.slices
        }

    def match(self, adapter: Adapter) -> MatchedAdapter:
        """Sort an adapter's modules by linear.

        Raises AdapterError when a module has the wrong shape for its linear, or none has one.
        """
        by_linear: dict[str, list[MatchedSlice]] = {}
        unmatched = []
        for module, weights in adapter.modules.items():
            if module not in self._places:
                unmatched.append(module)
                continue
            linear, in_features, part = self._places[module]
            wanted = (part.stop - part.start, in_features)
            given = (weights.b_OR.shape[0], weights.a_RI.shape[1])
            if wanted != given:
                raise AdapterError(
                    f"adapter {str(adapter.path)!r}: {module!r} is for a layer of shape "
                    f"{given[0]} x {given[1]}, the model's is {wanted[0]} x {wanted[1]}"
                )
            by_linear.setdefault(linear, []).append(MatchedSlice(part, weights))
        if not by_linear:
            shown = ", ".join(repr(name) for name in unmatched[:3])
            raise AdapterError(
                f"adapter {str(adapter.path)!r} was made for another model: none of its "
                f"{len(unmatched)} modules is a layer of this one (it has {shown}, ...)"
            )
        return MatchedAdapter(
            by_linear={
                linear: tuple(sorted(slices, key=lambda one: one.part.start))
                for linear, slices in by_linear.items()
            },
            unmatched=tuple(unmatched),
        )
