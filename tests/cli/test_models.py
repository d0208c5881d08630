"""What mooring models says of a model."""

import pytest

from mooring.cli.models import format_seconds


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 ms"), (0.00042, "0.42 ms"), (0.0123, "12.3 ms"), (0.9999, "1 s"), (1.4401, "1.44 s"), (75.3, "75.3 s"), (4000, "67 min")],
)  # fmt: skip
def test_a_duration_has_the_unit_in_which_people_say_it(seconds, said):
    assert format_seconds(seconds) == said
