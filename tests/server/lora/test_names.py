from __future__ import annotations

import pytest

from lorry_server.lora.names import check_adapter_name


@pytest.mark.parametrize("name", ["sql", "a.b-c_d", "team/sql", "A" * 96])
def test_good_names_are_taken(name: str) -> None:
    assert check_adapter_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "-x", "../x", "/x", "a/b/c", "a//b", "a\n", "é", "A" * 97, "~/x", "a\\b"],
)
def test_names_that_could_be_a_path_or_break_a_header_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        check_adapter_name(name)
