"""The text of a page: templates, what is asked for, names and labels of any kind."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mooring.observability.exposition import (
    Family,
    Page,
    fill,
    format_labels,
    format_number,
    histogram_template,
    histogram_values,
    sample_template,
    version_labels,
)
from mooring.observability.histogram import Histogram

LENGTHS = Family("lengths", "How long they are", "histogram")


def histogram(*values, bounds=(1.0, 2.5)):
    found = Histogram(bounds)
    for value in values:
        found.observe(value)
    return found


def lengths(labels, *values):
    return fill(histogram_template("lengths", (1.0, 2.5)), labels, histogram_values(histogram(*values)))


def shown(name):
    """A name without the two characters that templates use."""
    return name.replace("\0", "?").replace("\1", "?")


def test_a_histogram_is_cumulative_and_has_its_labels_in_every_line():
    assert lengths('a="b"', 0.5, 2.0, 2.0, 9.0).splitlines() == [
        'lengths_bucket{a="b",le="1.0"} 1',
        'lengths_bucket{a="b",le="2.5"} 3',
        'lengths_bucket{a="b",le="+Inf"} 4',
        'lengths_count{a="b"} 4',
        'lengths_sum{a="b"} 13.5',
    ]


def test_without_labels_there_are_no_braces():
    assert fill(sample_template("up"), "", (1,)) == "up 1\n"
    assert lengths("").splitlines()[2:4] == ['lengths_bucket{le="+Inf"} 0', "lengths_count 0"]


def test_a_family_without_samples_is_not_on_the_page_and_one_has_its_head_once():
    page = Page()
    page.add(LENGTHS, [])
    assert page.encode() == b""
    page.add(LENGTHS, [lengths('a="1"'), lengths('a="2"')])
    text = page.encode().decode()
    assert text.startswith("# HELP lengths How long they are\n# TYPE lengths histogram\nlengths_bucket{")
    assert text.count("# TYPE") == 1
    assert text.count("lengths_count") == 2


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (None, {"lengths_bucket", "lengths_count", "lengths_sum"}),
        ({"lengths"}, {"lengths_bucket", "lengths_count", "lengths_sum"}),
        ({"lengths_sum"}, {"lengths_sum"}),
        ({"lengths_s"}, set()),
        (set(), set()),
    ],
)
def test_a_page_has_the_families_and_samples_that_were_asked_for(names, samples):
    page = Page(names)
    page.add(LENGTHS, [lengths('a="1"', 0.5)])
    lines = [line for line in page.encode().decode().splitlines() if not line.startswith("#")]
    assert {line.partition("{")[0] for line in lines} == samples
    assert page.wants(LENGTHS) is bool(samples)


@given(st.text(), st.text(), st.sampled_from([None, {"lengths_sum"}]))
def test_names_of_models_may_have_any_character(name, version, asked):
    page = Page(asked)
    page.add(LENGTHS, [lengths(version_labels(name, version), 1.0)])
    (family,) = text_string_to_metric_families(page.encode().decode())
    assert {tuple(sample.labels.items())[:2] for sample in family.samples} == {
        (("model_name", shown(name)), ("model_version", shown(version)))
    }


def test_numbers_and_labels_are_written_as_prometheus_reads_them():
    assert (format_number(math.inf), format_number(2), format_number(0.1)) == ("+Inf", "2.0", "0.1")
    assert format_labels({"a": 'x"\\\n'}) == r'a="x\"\\\n"'
