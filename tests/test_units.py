import math

import pytest

from llmsim import units
from llmsim.errors import InputError


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "bytes", 80e9),
        ("80GiB", "bytes", 80 * 2**30),
        ("97887 MiB", "bytes", 97887 * 2**20),
        ("3.35 TB/s", "bytes/s", 3.35e12),
        ("450GB/s", "bytes/s", 450e9),
        ("400 Gbit/s", "bytes/s", 50e9),
        ("200 Gbps", "bytes/s", 25e9),
        ("989 TFLOP/s", "flop/s", 989e12),
        ("1.3 PFLOPS", "flop/s", 1.3e15),
        ("1978 TOP/s", "flop/s", 1978e12),
        ("25us", "s", 25e-6),
        ("25 µs", "s", 25e-6),
        ("1.5 h", "s", 5400),
        ("1.98 GHz", "Hz", 1.98e9),
        ("700 W", "W", 700),
        ("10.2 kW", "W", 10200),
        ("8k", "1", 8000),
        ("128Ki", "1", 131072),
        ("99%", "1", 0.99),
        ("1e9", "1", 1e9),
        ("1_000", "1", 1000),
        (132, "1", 132),
        (0.92, "1", 0.92),
        ("inf", "1", math.inf),
    ],
)
def test_a_quantity_becomes_its_value_in_base_units(text, dimension, value):
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("80", "bytes"),
        (80, "bytes"),
        ("80 GHz", "bytes"),
        ("80 gb", "bytes"),
        ("-1 GB", "bytes"),
        ("fast", "bytes/s"),
        ("", "s"),
        (None, "s"),
        (True, "1"),
        ("3 m", "s"),
        ("nan", "1"),
        ("-inf", "1"),
        ([1], "1"),
        ("1.2.3", "1"),
    ],
)
def test_what_is_no_quantity_of_the_dimension_is_refused(text, dimension):
    with pytest.raises(units.QuantityError, match="is not a quantity such as"):
        units.parse(text, dimension)


def test_a_bare_number_is_refused_with_a_hint_even_when_yaml_made_text_of_it():
    with pytest.raises(InputError) as error:
        units.parse("3.35", "bytes/s")
    assert str(error.value).splitlines()[0] == "'3.35' is not a quantity such as '3.35 TB/s'"
    assert "write the unit" in str(error.value)
    # PyYAML reads 1e9 (no dot, no sign) as text.
    with pytest.raises(units.QuantityError, match="'1e9' is not a quantity such as '80 GB'"):
        units.parse("1e9", "bytes")


def test_bits_in_the_spelling_of_bytes_are_refused_rather_than_taken_as_eight_times_too_much():
    with pytest.raises(units.QuantityError, match="Gbit/s"):
        units.parse("400 Gb/s", "bytes/s")


def test_the_error_is_a_value_error_too_so_that_a_schema_can_collect_it():
    with pytest.raises(ValueError, match="is not a quantity"):
        units.parse("x", "s")


def test_sizes_and_durations_are_readable():
    assert units.format_bytes(85899345920) == "80.0 GiB"
    assert units.format_bytes(131072) == "128.0 KiB"
    assert units.format_bytes(12) == "12 B"
    assert units.format_seconds(25e-6) == "25.0 us"
    assert units.format_seconds(1.5) == "1.50 s"
    assert units.format_seconds(0.1234) == "123 ms"
    assert units.format_seconds(0) == "0 s"
    assert units.format_seconds(125) == "2 min 05 s"
    assert units.format_seconds(7500) == "2 h 05 min"
    assert units.format_seconds(math.inf) == "never"
