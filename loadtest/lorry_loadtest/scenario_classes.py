"""The user class of a scenario by its name; importing this imports locust."""

from __future__ import annotations

from importlib import import_module

from lorry_loadtest.scenarios import SCENARIOS
from lorry_loadtest.users import CommandLineUser, LLMUser


def user_class_of(scenario: str) -> type[LLMUser]:
    """That of a scenario's module, or without a name the user that only follows the options.

    ValueError lists the names when there is no such scenario.
    """
    if not scenario:
        return CommandLineUser
    if scenario not in SCENARIOS:
        raise ValueError(f"the scenario {scenario!r} is not one of {', '.join(SCENARIOS)}")
    module = import_module(f"lorry_loadtest.scenarios.{scenario}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    )
    assert issubclass(found, LLMUser)
    return found
