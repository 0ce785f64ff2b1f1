"""Amounts are exact, refusals are refusals, and text forms go round."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.common.quantity import (
    AMOUNT_MAX,
    CPU,
    MEM,
    ResourceSlots,
    SlotName,
    format_amount,
    format_size,
    parse_amount,
    parse_size,
    parse_slots,
    slot_type,
    sum_slots,
)

NAMES = st.sampled_from(["cpu", "mem", "cuda.device", "cuda.mem", "cuda.10g-mig"])
SLOTS = st.dictionaries(NAMES, st.integers(-(2**40), 2**40)).map(ResourceSlots)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1024", 1024),
        (1024, 1024),
        (1.5, 1),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("1 kib", 1024),
        ("256m", 256 << 20),
        ("256M", 256 << 20),
        ("256MB", 256 << 20),
        ("512MiB", 512 << 20),
        ("1.5g", 3 << 29),
        ("1.5 GiB", 3 << 29),
        (".5g", 1 << 29),
        ("1.g", 1 << 30),
        ("2t", 2 << 40),
        ("1p", 1 << 50),
        ("1e", 1 << 60),
        ("4e", 1 << 62),
        ("  1g  ", 1 << 30),
        ("10 bytes", 10),
        ("10b", 10),
        ("0.3", 0),
        ("1023.99999999999999999999999999999k", 1048575),
    ],
)
def test_sizes(text: str | int | float, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "g",
        "-1",
        -1,
        "+1",
        "1x",
        "1gg",
        "1 g i b",
        "1,5g",
        "1_000",
        "0x10",
        "1e3",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        True,
        False,
        "٣g",
        "1g; rm",
        "5e",
        "9" * 100,
        "9" * 1_000_000,
    ],
)
def test_no_sizes(text: str | int | float) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_size(text)
    assert len(caught.value.message) < 100


@given(st.integers(0, AMOUNT_MAX))
def test_bytes_are_exact(size_bytes: int) -> None:
    assert parse_size(str(size_bytes)) == parse_size(size_bytes) == size_bytes
    assert parse_amount("mem", format_amount("mem", size_bytes)) == size_bytes


@given(st.decimals("0", "1000000", places=6), st.sampled_from(["", "k", "m", "g"]))
def test_fractions_are_cut_and_never_rounded_up(amount: Decimal, suffix: str) -> None:
    exact = Fraction(amount) * 1024 ** " kmg".index(suffix or " ")
    assert parse_size(f"{amount:f}{suffix}") == exact.numerator // exact.denominator


@pytest.mark.parametrize(
    ("value", "milli"),
    [
        ("1", 1000),
        (1, 1000),
        (0.5, 500),
        ("0.5", 500),
        (".5", 500),
        ("1.", 1000),
        ("0.001", 1),
        ("0.1000000", 100),
        (" 2 ", 2000),
        ("+2", 2000),
        ("0", 0),
    ],
)
def test_counts(value: str | int | float, milli: int) -> None:
    assert parse_amount("cpu", value) == milli


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "-1",
        -0.5,
        "0.0001",
        "0.00100000000000000000000000001",
        "NaN",
        "sNaN",
        "Infinity",
        "1e3",
        "1e999999",
        "1e-999999999",
        "1e999999999999",
        "1_000",
        "٣",
        "1g",
        "one",
        True,
        "9" * 20,
        0.1 + 0.2,
        "9" * 1_000_000,
        float("inf"),
    ],
)
def test_no_counts(value: str | int | float) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_amount("cpu", value)
    assert caught.value.detail["slot"] == "cpu"


@given(st.integers(0, AMOUNT_MAX))
def test_counts_go_round(milli: int) -> None:
    text = format_amount("cpu", milli)
    assert parse_amount("cpu", text) == milli
    assert "e" not in text.lower()
    assert Decimal(text) * 1000 == milli


@given(st.text(max_size=30) | st.floats() | st.integers())
def test_any_value_is_an_amount_or_refused(value: str | int | float) -> None:
    for slot in ("cpu", "mem"):
        try:
            assert 0 <= parse_amount(slot, value) <= AMOUNT_MAX
        except InvalidInput:
            continue


def test_negative_amounts_are_shown() -> None:
    assert format_amount("cpu", -1500) == "-1.5"
    assert format_amount("mem", -5) == "-5"


@given(SLOTS, SLOTS, SLOTS)
def test_sums_are_exact_and_order_does_not_matter(
    a: ResourceSlots, b: ResourceSlots, c: ResourceSlots
) -> None:
    assert (a + b) + c == a + (b + c) == sum_slots([c, b, a])
    assert a + b == b + a
    assert (a + b) - b == a
    assert hash(a + b) == hash(b + a)


@given(SLOTS, SLOTS)
def test_fits_is_the_absence_of_shortfalls(a: ResourceSlots, b: ResourceSlots) -> None:
    assert a.fits(b) == (not a.shortfalls(b))
    assert all(short.asked > short.available for short in a.shortfalls(b))


def test_zero_is_missing_and_missing_is_zero() -> None:
    assert ResourceSlots({"cpu": 0}) == ResourceSlots()
    assert len(ResourceSlots({"cpu": 0, "mem": 1})) == 1
    assert ResourceSlots()[CPU] == 0
    assert CPU not in ResourceSlots({"cpu": 0})
    assert ResourceSlots({"cpu": 1000, "mem": 5}) == ResourceSlots({"mem": 5, "cpu": 1000})
    assert ResourceSlots({"cpu": 1}) != {"cpu": 1}


def test_copies_are_not_shared() -> None:
    slots = ResourceSlots({"cpu": 1000})
    slots.amounts()["cpu"] = 5
    assert slots[CPU] == 1000


def test_texts_and_parsing_agree() -> None:
    slots = parse_slots({"cpu": "0.5", "mem": "1g", "cuda.mem": "2g", "cuda.device": 1})
    assert slots.texts() == {
        "cpu": "0.5",
        "mem": str(1 << 30),
        "cuda.mem": str(2 << 30),
        "cuda.device": "1",
    }
    assert parse_slots(slots.texts()) == slots
    assert ResourceSlots({"cpu": 2000}).shortfalls(ResourceSlots({"cpu": 500}))[0].texts() == {
        "slot": "cpu",
        "asked": "2",
        "available": "0.5",
    }


def test_slot_types() -> None:
    assert [slot_type(n) for n in ("mem", "cuda.mem", "cpu", "cuda.shares", "cuda.1g-mig")] == [
        "bytes",
        "bytes",
        "count",
        "count",
        "unique",
    ]
    assert SlotName("mem") == MEM


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (256 << 20, "256 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 62, "4096 PiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
