"""Spans of time as people type them."""

from __future__ import annotations

import pytest

from ray_kd.config.errors import UserError
from ray_kd.config.words import seconds_in


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("1H2m3s", 3723), ("0.5h", 1800)],
)
def test_a_span_of_time_is_read(text: str, seconds: float) -> None:
    assert seconds_in(text, "--until-time") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0s", "-1h", "30m1h", "1h30"])
def test_what_is_none_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"--until-time.*2h, 90m, 45s.*got"):
        seconds_in(text, "--until-time")
