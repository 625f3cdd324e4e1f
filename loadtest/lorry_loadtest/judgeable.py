"""Whether the user classes of a locustfile make a load that one report can be about."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lorry_loadtest.engine import Engine


class NotJudgeable(ValueError):
    """One report cannot be about all of the classes; the text names what differs."""


def check_judgeable(engines: Sequence[Engine], *, objectives: Collection[str] = ()) -> None:
    """Each class is held to what it says by itself, so they may differ in most things.

    `objectives` are those that classes say, as texts. Raises NotJudgeable where some wait for their
    answers and others do not, where two cannot be told apart in the records, where they test several
    servers, and where they say different objectives.
    """
    by_scenario: dict[str, Engine] = {}
    for engine in engines:
        name = engine.settings.scenario
        if name in by_scenario:
            raise NotJudgeable(
                f"two user classes have the scenario {name!r}, and records tell classes apart by it"
            )
        by_scenario[name] = engine
    closed = [name for name, engine in by_scenario.items() if not engine.is_open_loop]
    if 0 < len(closed) < len(engines):
        opened = [name for name in by_scenario if name not in closed]
        raise NotJudgeable(
            f"{', '.join(closed)} wait for their answers (a closed loop) and {', '.join(opened)} do "
            "not (an open loop): one report is about one kind of load, so run them one by one"
        )
    servers = sorted({str(engine.wire.endpoint) for engine in engines})
    if len(servers) > 1:
        raise NotJudgeable(f"the user classes test several servers: {', '.join(servers)}")
    if len(set(objectives)) > 1:
        raise NotJudgeable(
            f"the user classes have different objectives ({'; '.join(sorted(set(objectives)))}): "
            "say those of the whole test with --slo"
        )
