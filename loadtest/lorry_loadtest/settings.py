"""What a user class asks for, checked: its attributes, and over them what the command line says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from lorry_loadtest.adapter_mix import AdapterMix, mix_of, parse_mix
from lorry_loadtest.arrivals import Arrivals, TraceArrivals, parse_arrival
from lorry_loadtest.canaries import canaries_for
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.lengths import Lengths, lengths_of
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.prompts import PromptSource, prompts_of
from lorry_loadtest.rates import rates_of_shape
from lorry_loadtest.routes import Route
from lorry_loadtest.workload import Variant, Workload

# Learning each canary takes two requests; with hundreds of adapters a sample must do.
_MOST_CANARY_ADAPTERS = 32


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """`arrival` None is a closed loop. `adapters` None means those that the server lists, in a mix
    by `adapter_mix` if that is set."""

    scenario: str
    arrival: Arrivals | TraceArrivals | None
    adapters: AdapterMix | Mapping[str | None, float] | Sequence[str | None] | None
    adapter_mix: str
    base_share: float
    prompts: PromptSource
    lengths: Lengths
    route: Route
    seed: int
    canary_share: float
    patience_s: float | None
    variants: tuple[Variant, ...]
    length_scale: float

    @property
    def arrival_name(self) -> str:
        """`closed`, or the open loop's process."""
        if self.arrival is None:
            return "closed"
        return "trace" if isinstance(self.arrival, TraceArrivals) else self.arrival.process

    def workload(self, catalog: Catalog, *, stream: int = 0, source: int = 0) -> Workload:
        """`catalog` gives the adapters where the settings name none; ValueError for what does not fit.

        Adapters that the catalog lacks are not refused: a server may load them when asked.
        `source` is the user class's place among those of the locustfile.
        """
        mix = self._mix(catalog)
        if self.arrival is None and mix.churn is not None:
            mix.churn.shift_at(index=0, at_ns=None)  # raises for seconds
        canaries = (
            canaries_for(mix.all_names[:_MOST_CANARY_ADAPTERS], seed=self.seed)
            if self.canary_share
            else ()
        )
        return Workload(
            seed=self.seed,
            stream=stream,
            source=source,
            adapters=mix,
            prompts=self.prompts,
            max_tokens=self.lengths,
            route=self.route,
            canaries=canaries,
            canary_share=self.canary_share,
            patience_s=self.patience_s,
            trace=self.arrival.trace if isinstance(self.arrival, TraceArrivals) else None,
            variants=self.variants,
            length_scale=self.length_scale,
        )

    def _mix(self, catalog: Catalog) -> AdapterMix:
        if self.adapter_mix:
            if self.base_share:
                raise ValueError(
                    f"a base share of {self.base_share:g} has no place in the adapter mix "
                    f"{self.adapter_mix!r}: leave out one of the two"
                )
            listed = catalog.adapters if self.adapters is None else self.adapters
            names = [name for name in listed if name] if not isinstance(listed, AdapterMix) else []
            if not names:
                raise ValueError(f"the adapter mix {self.adapter_mix!r} needs a list of adapters")
            return parse_mix(self.adapter_mix, names)
        return mix_of(
            catalog.adapters if self.adapters is None else self.adapters,
            base_share=self.base_share,
        )


def settings_of(
    user_class: Any, options: WorkloadOptions | None, *, shape: Any = None
) -> LoadSettings:
    """`user_class` is an `LLMUser`; an arrival without a rate has that of `shape`. ValueError names an attribute or an option that is wrong."""
    if user_class.route not in get_args(Route):
        raise ValueError(f"the route is {user_class.route!r}, not one of {get_args(Route)}")
    arrival = user_class.arrival
    if shape is not None and arrival in ("constant", "poisson"):
        arrival = Arrivals(arrival, rates_of_shape(shape))
    settings = LoadSettings(
        scenario=user_class.scenario or user_class.__name__,
        arrival=parse_arrival(arrival) if isinstance(arrival, str) else arrival,
        adapters=user_class.adapters,
        adapter_mix=user_class.adapter_mix,
        base_share=user_class.base_share,
        prompts=prompts_of(user_class.prompts),
        lengths=lengths_of(user_class.lengths),
        route=user_class.route,
        seed=user_class.seed,
        canary_share=user_class.canary_share,
        patience_s=user_class.patience_s,
        variants=tuple(user_class.variants),
        length_scale=user_class.length_scale,
    )
    return settings if options is None else _with_options(settings, options)


def _with_options(settings: LoadSettings, options: WorkloadOptions) -> LoadSettings:
    """Only what was given on the command line is changed."""
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("adapters", options.adapters),
            ("base_share", options.base_share),
            ("prompts", options.prompts),
            ("lengths", options.max_tokens),
            ("seed", options.seed),
            ("route", options.route),
            ("canary_share", options.canary_share),
            ("patience_s", options.patience_s),
        )
        if value is not None
    }
    if options.adapters is not None:
        changes.setdefault("base_share", 0.0)
        changes["adapter_mix"] = ""
    if options.prompts is not None or options.max_tokens is not None:
        changes["variants"] = ()
    if options.adapter_mix:
        changes["adapter_mix"] = options.adapter_mix
    if options.arrival:
        given = options.arrival
        changes["arrival"] = parse_arrival(given) if isinstance(given, str) else given
    return replace(settings, **changes)
