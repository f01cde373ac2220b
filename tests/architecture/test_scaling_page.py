"""The arithmetic of docs/explanation/scaling.md, computed again from what it says is measured."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from savannah.entrypoints.settings import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/scaling.md").read_text()
TEXT = " ".join(PAGE.split())
DAY_S, MONTH_DAYS, YEAR_DAYS = 86_400, 30, 365
TEXTS, PEAK = 3, 5


def rows(section: str) -> list[list[str]]:
    """The cells of that section's table, without its head."""
    part = PAGE[PAGE.index(f"## {section}\n") :]
    lines = [line for line in part[: part.index("\n## ", 4)].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(printed: str) -> float:
    return float(re.match(r"[\d .]*\d", printed)[0].replace(" ", ""))


def says(printed: str, value: float) -> bool:
    """Whether that is the value, rounded to as many places as are printed."""
    places = len(re.match(r"[\d ]*\.?(\d*)", printed)[1])
    return abs(number(printed) - value) <= 0.5 * 10**-places + 1e-9


def told(pattern: str) -> str:
    """The one number that stands there in the text."""
    (found,) = re.findall(pattern.replace("#", r"(\d[\d .]*)"), TEXT)
    return found.strip()


BYTES = {
    name.strip("`"): int(times) * (number(row) + number(indexes))
    for name, times, row, indexes, *_ in rows("Bytes")
    if times
}
ORDER = sum(BYTES.values())
LOG = number(told("whole way writes # kB")) * 1000
PER_DAY = 1_000_000
RATE = PER_DAY * 5 * TEXTS * PEAK / DAY_S
LATENCY_S = number(told("gateway that takes # ms")) / 1000
MESSAGE_S = number(told("some # ms of processor time")) / 1000
LINES = number(told("holds up to # connections"))
POOL = parse({}).database_pool_size


def test_the_rates_follow_from_the_orders_of_a_day():
    table = rows("Rates")
    assert len(table) == 3
    for orders, mean, peak, texts, texts_at_peak in table:
        a_second = number(orders) / DAY_S
        assert says(mean, a_second)
        assert says(peak, a_second * PEAK)
        assert says(texts, number(orders) * TEXTS / 1e6)
        assert says(texts_at_peak, a_second * TEXTS * PEAK)


def test_the_bytes_of_an_order_add_up():
    assert set(BYTES) == {"orders", "notifications", "events", "delivery_reports"}
    for name, *_, order, million in rows("Bytes"):
        whole = BYTES.get(name.strip("`"), ORDER)
        assert says(order, whole / 1e3), name
        assert says(million, whole * 1e6 / 1e9), name


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("that is # GB a month", ORDER * PER_DAY * MONTH_DAYS / 1e9),
        ("GB a month and # TB a year", ORDER * PER_DAY * YEAR_DAYS / 1e12),
        ("Computed: # GB a day, ", LOG * PER_DAY / 1e9),
        ("GB a day, # MB/s", LOG * PER_DAY / DAY_S / 1e6),
        ("and # MB/s at peak", LOG * PER_DAY / DAY_S * PEAK / 1e6),
        ("At # MB/s replay", LOG * PER_DAY / DAY_S * PEAK / 1e6),
        ("Computed, for # texts a second", RATE),
        ("a second: # in flight", RATE * LATENCY_S),
        ("a worker does #/s by latency", LINES / LATENCY_S),
        ("by latency and #/s by its processor", 1 / MESSAGE_S),
        (r"= max\(#, [\d.]+\), rounded", RATE * LATENCY_S / LINES),
        (r"= max\([\d.]+, #\), rounded", RATE * MESSAGE_S),
        ("rounded up: #", math.ceil(max(RATE * LATENCY_S / LINES, RATE * MESSAGE_S))),
        ("slows to 500 ms, it takes #", math.ceil(RATE * 0.5 / LINES)),
        (r"`DATABASE_POOL_SIZE` \(#\)", POOL),
        ("four workers have 12 × #", POOL + 1),
        (r"have 12 × \d+ = #", (8 + 4) * (POOL + 1)),
        ("orders a second # connections", number(rows("Rates")[-1][2]) * 0.005),
        ("a month of orders is # GB", BYTES["orders"] * PER_DAY * MONTH_DAYS / 1e9),
        ("one of notifications # GB", BYTES["notifications"] * PER_DAY * MONTH_DAYS / 1e9),
        ("that is # million dead rows", TEXTS * 4 + 3),
    ],
)
def test_a_computed_figure_of_the_text_is_right(pattern, value):
    assert says(told(pattern), value), f"{value:.3f}"


def test_a_program_that_measures_is_there_and_takes_what_the_page_gives_it():
    programs = set(re.findall(r"`(?:uv run python )?(benchmarks/\w+\.py)", PAGE))
    assert programs == {"benchmarks/sizes.py", "benchmarks/messages.py"}
    assert '"--orders"' in (ROOT / "benchmarks/sizes.py").read_text()
