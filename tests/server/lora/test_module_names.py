"""Names that no layer has, explained; many names told in few words."""

from __future__ import annotations

from lorry_server.lora.module_names import LayerNames, group_modules

LAYERS = [
    f"model.layers.{index}.{rest}"
    for index in range(30)
    for rest in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
] + ["lm_head"]


def test_two_mistakes_in_a_name_are_both_told() -> None:
    found = LayerNames(LAYERS).explain("transformer.layers.31.self_attn.q_proj")

    assert found.nearest == "model.layers.29.self_attn.q_proj"
    assert "'transformer.layers'" in found.hint
    assert "layers 0 to 29, not one with the number 31" in found.hint


def test_a_head_under_a_prefix_is_recognized() -> None:
    assert LayerNames(LAYERS).explain("model.lm_head").nearest == "lm_head"


def test_a_name_like_nothing_has_no_nearest() -> None:
    found = LayerNames(LAYERS).explain("visual.patch_embedding")

    assert found.nearest is None
    assert found.hint == "this model has no 'visual.patch_embedding'"


def test_a_very_long_name_is_shown_in_part() -> None:
    found = LayerNames(LAYERS).explain("x" * 100_000)

    assert len(found.hint) < 200


def test_alike_modules_of_all_layers_are_one_group() -> None:
    groups = group_modules(
        {f"model.layers.{i}.self_attn.{n}_proj": (16, 2.0) for i in range(30) for n in "qv"}
    )

    assert [str(group) for group in groups] == [
        "layers 0-29: self_attn.q_proj, self_attn.v_proj rank 16 scaling 2"
    ]


def test_layers_with_gaps_are_told_in_ranges() -> None:
    groups = group_modules(
        {f"model.layers.{i}.mlp.up_proj": (8, 1.0) for i in (0, 1, 2, 5, 7, 8)}
        | {"lm_head": (4, 0.5)}
    )

    assert {str(group) for group in groups} == {
        "layers 0-2, 5, 7-8: mlp.up_proj rank 8 scaling 1",
        "lm_head rank 4 scaling 0.5",
    }
