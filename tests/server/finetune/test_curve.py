"""The loss curve is well-formed SVG whose points are the losses."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from lorry_server.finetune.curve import BOTTOM, LEFT, loss_curve, running_mean, sparkline

SVG = "{http://www.w3.org/2000/svg}"


def points(document: str, kind: str) -> list[tuple[float, float]]:
    (line,) = (
        line
        for line in ElementTree.fromstring(document).iter(f"{SVG}polyline")
        if line.get("class") == kind
    )
    pairs = (pair.split(",") for pair in line.get("points", "").split())
    return [(float(x), float(y)) for x, y in pairs]


def test_falling_losses_are_a_falling_line_inside_the_frame() -> None:
    document = loss_curve([4.0, 2.0, 1.0], title="a <b> & c")

    (x1, y1), (x2, y2), (x3, y3), _ = points(document, "step")
    assert LEFT < x1 < x2 < x3
    assert y1 < y2 < y3 < BOTTOM  # y grows downwards
    assert "Training loss of a <b> & c" in str(ElementTree.fromstring(document).attrib)


def test_held_out_losses_are_marked_where_they_were_measured() -> None:
    document = loss_curve([4.0, 2.0], held_out=[(0, 5.0), (2, 2.5)], title="y")

    tips = [tip.text for tip in ElementTree.fromstring(document).iter(f"{SVG}title")]
    assert tips == ["held out, after step 0: 5.000", "held out, after step 2: 2.500"]


@pytest.mark.parametrize("losses", [[], [0.0], [math.nan, 1.0, math.inf], [1e-12], [1e9, 3.0]])
def test_strange_losses_still_make_a_picture(losses: list[float]) -> None:
    root = ElementTree.fromstring(loss_curve(losses, title="y"))

    text = ElementTree.tostring(root, encoding="unicode")
    assert "nan" not in text
    assert "inf" not in text


def test_long_runs_are_thinned_and_keep_their_end() -> None:
    document = loss_curve([1.0] * 99_999 + [0.0], title="y")

    shown = points(document, "step")
    assert len(shown) <= 1001
    assert shown[-1][1] == BOTTOM


def test_running_mean_of_equal_values_is_that_value() -> None:
    assert running_mean([(step, 3.0) for step in range(200)])[-1] == (199, pytest.approx(3.0))


def test_sparkline_falls_with_the_values() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
