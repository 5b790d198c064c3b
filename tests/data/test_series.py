"""A series out of a CSV file: what is read, and what is refused, each with its line."""

import numpy as np
import pytest

from bptt.data.calendar import (
    DAY,
    SECOND,
    Calendar,
    calendar_features,
    feature_names,
    find_calendar,
)
from bptt.data.series import naive, read_series, scale_of, seasonal, targets
from bptt.data.source import Source
from bptt.errors import DataError


def table(times, values=None, head="when,sold"):
    values = [10 + n % 7 for n in range(len(times))] if values is None else values
    return "\n".join([head, *(f"{t},{v}" for t, v in zip(times, values, strict=True))]) + "\n"


def read(text, column="sold", **options):
    data = text if isinstance(text, bytes) else text.encode()
    return read_series(Source("a.csv", len(data), content=data), column, **options)


def written(calendar, count=12):
    return [calendar.stamp(time) for time in calendar.at(np.arange(count))]


def micro(text):
    return int(np.datetime64(text, "us").astype(np.int64))


CALENDARS = {
    "hourly": Calendar(micro("2024-02-28T22:00"), 3600 * SECOND),
    "every 30 minutes": Calendar(micro("2024-02-28T22:30"), 1800 * SECOND),
    "every 2 seconds": Calendar(micro("2024-02-28T22:30:57"), 2 * SECOND),
    "every 10 milliseconds": Calendar(micro("2024-02-28T22:30"), 10_000),
    "daily": Calendar(micro("2023-12-30"), DAY),
    "weekly": Calendar(micro("1958-03-29"), 7 * DAY),
    "monthly": Calendar(micro("2023-11-01"), 1, "month"),
    "monthly, at the end": Calendar(micro("2023-10-31"), 1, "month", 31),
    "quarterly": Calendar(micro("2023-11-15"), 3, "month", 15),
    "yearly": Calendar(micro("1700-01-01"), 12, "month"),
    "on working days": Calendar(micro("2024-02-28"), 1, "working day"),
}


@pytest.mark.parametrize("name", CALENDARS)
def test_a_calendar_is_found_again(name):
    calendar = CALENDARS[name]
    series = read(table(written(calendar)))
    assert series.calendar == calendar
    assert series.calendar.words == name.split(",")[0]
    again = read(series.to_csv())
    assert again.calendar == calendar
    assert np.array_equal(again.values, series.values)


@pytest.mark.parametrize("name", CALENDARS)
def test_a_gap_is_named_or_filled_with_what_came_before(name):
    times = written(CALENDARS[name], 17)
    # Of working days a Friday and the Monday after it are left out: a gap with a weekend in it.
    left = [*times[:2], *times[4:7], *times[8:]]
    values = [float(n) for n in (0, 1, 4, 5, 6, *range(8, 17))]
    with pytest.raises(
        DataError, match=r"received none between .*, line 4, and 1 more gap: .*--fill"
    ):
        read(table(left, values))
    series = read(table(left, values), fill=True)
    assert series.values.tolist() == [0, 1, 1, 1, 4, 5, 6, 6, *range(8, 17)]
    assert np.flatnonzero(~series.known).tolist() == [2, 3, 7]
    again = read(series.to_csv(), fill=True)
    assert np.array_equal(again.values, series.values)
    assert np.array_equal(again.known, series.known)
    assert again.calendar == series.calendar


WAYS = {
    "slashes": ("{1}/{2}/{0}", False), "day first": ("{2}/{1}/{0}", False),
    "dots": ("{2}.{1}.{0}", False), "year first": ("{0}/{1}/{2}", False), "compact": ("{0}{1}{2}", False),
    "with a clock": ("{0}-{1}-{2} 17:30", False), "afternoon": ("{1}/{2}/{0} 5:30 PM", False),
    "an offset": ("{0}-{1}-{2}T17:30:00+01:30", True), "zulu": ("{0}-{1}-{2}T16:00Z", True),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_a_time(way):
    form, utc = WAYS[way]
    days = [str(np.datetime64("2024-01-05") + n) for n in range(12)]
    series = read(table([form.format(*day.split("-")) for day in days], head="date,sold"))
    clock = "T16:00" if utc else "T17:30" if "30" in form else "T00:00"
    assert series.calendar == Calendar(micro("2024-01-05" + clock), DAY, utc=utc)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["2024-01", "2024-02", "2024-03"], "monthly"),
        (["2024Q1", "2024Q2", "2024Q3"], "quarterly"),
        (["1700", "1701", "1702"], "yearly"),
        (["1700000000", "1700003600", "1700007200"], "hourly"),
    ],
)
def test_short_ways_to_write_a_time(times, words):
    assert read(table(times, head="date,sold")).calendar.words == words
    # Whole numbers may be anything: without such a name they are times only where they are said to be.
    if times[0].isdigit():
        with pytest.raises(DataError, match="one column of times"):
            read(table(times, head="id,sold"))
        assert read(table(times, head="id,sold"), time="id").calendar.words == words


GOOD = [str(np.datetime64("2024-01-01") + n) for n in range(20)]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends(separator, mark, end):
    text = table(GOOD).replace(",", separator).replace("\n", end)
    assert read(mark + text.encode()).values[:3].tolist() == [10, 11, 12]


def test_the_only_column_of_numbers_needs_no_name():
    assert read(table(GOOD), None).name == "sold"
    more = table([f"{day},rain" for day in GOOD], head="when,weather,sold")
    assert read(more, None).name == "sold"


def test_decimal_commas_are_read_where_they_are_said_to_be():
    text = "when;sold\n" + "".join(f"{day};{n},5\n" for n, day in enumerate(GOOD))
    assert read(text, decimal_comma=True).values[:2].tolist() == [0.5, 1.5]
    with pytest.raises(DataError, match=r"received '0,5' in line 2: write 12.5 .* --decimal-comma"):
        read(text)


def changed(place, row, times=None):
    rows = table(times or GOOD).splitlines()
    rows[place] = row
    return "\n".join(rows) + "\n"


REFUSED = {
    "twice": (changed(6, "2024-01-05,3"), {}, r"each time once in when.*2024-01-05 in lines 6 and 7"),
    "unsorted": (changed(6, "2023-01-05,3"), {}, r"ascending .*2023-01-05 after 2024-01-05 in line 7"),
    "a text": (changed(6, "2024-01-06,many"), {}, r"finite numbers in sold.*'many' in line 7: mend"),
    "infinite": (changed(6, "2024-01-06,inf"), {}, r"finite numbers in sold.*'inf' in line 7"),
    "too large": (changed(6, "2024-01-06,1e999"), {}, r"finite numbers in sold.*'1e999' in line 7"),
    "missing": (changed(6, "2024-01-06,"), {}, r"a number in every row of sold.*none in line 7: .*fill"),
    "missing, by a word": (changed(6, "2024-01-06,NA"), {}, r"none in line 7: .*--fill"),
    "no time": (changed(6, ",3"), {}, r"a time in every row of when.*nothing in line 7"),
    "no day": (changed(6, "2024-02-30,3"), {}, r"a time in every row.*'2024-02-30' in line 7"),
    "no hour": (changed(6, "2024-01-06 24:00,3"), {}, r"a time in every row.*24:00' in line 7"),
    "between": (changed(6, "2024-01-06 12:00,3"), {}, r"on the grid of a series that is daily.*line 7"),
    "a month not over": (
        table([*(f"{2020 + n // 12}-{1 + n % 12:02}-01" for n in range(30)), "2022-07-28"]), {},
        r"on the grid of a series that is monthly.*received 2022-07-28 in line 32",
    ),
    "an end of month amiss": (
        table(["2023-01-31", "2023-02-28", "2023-03-30", "2023-04-30", "2023-05-31", "2023-07-31"]), {},
        r"on the grid of a series that is monthly.*received 2023-03-30 in line 4",
    ),
    "some offsets": (changed(6, "2024-01-06T00:00Z,3"), {}, r"an offset from UTC at every time"),
    "cells": (changed(6, "2024-01-06,3,4"), {}, r"2 cells in each line.*received 3 in line 7.*need ;"),
    "a text column": (
        table([f"{day},2" for day in GOOD], ["rain"] * 20, head="when,size,sold"), {},
        r"finite numbers in sold.*'rain' in line 2: name a column of numbers: size",
    ),
    "a wrong name": (table(GOOD), {"column": "Solt"}, r"'Solt': did you mean --column sold\?"),
    "a wrong time": (table(GOOD), {"time": "whem"}, r"'whem': did you mean --time when\?"),
    "one for both": (table(GOOD), {"column": "when", "time": "when"}, r"--time and --column to differ"),
    "no times": (table(range(20), head="id,sold"), {}, r"one column of times.*none among id, sold"),
    "two of times": (
        table([f"{day},{day}" for day in GOOD], head="a_day,b_day,sold"), {},
        r"one column of times.*a_day, b_day: name one: --time a_day",
    ),
    "two of numbers": (
        table([f"{day},2" for day in GOOD], head="when,size,sold"), {"column": None},
        r"one column of numbers.*size, sold: name one: --column size",
    ),
    "two readings": (
        table([f"{1 + n % 12:02}/{1 + n // 12:02}/2024" for n in range(20)]), {},
        r"dates that can be read in one way.*01/01/2024: write them as 2024-03-01",
    ),
    "any distance": (
        table([GOOD[n] for n in (0, 1, 3, 6, 10, 15)]), {}, r"times at one distance.*many distances",
    ),
    "no separator": (table(GOOD).replace(",", " "), {}, r"separated by commas, .*one column, when sold"),
    "no names": (table(GOOD).partition("\n")[2], {}, r"names of columns in the first line.*2024-01-01"),
    "names alone": ("when,sold\n", {}, r"rows under the names.*received none"),
    "names twice": (table(GOOD, head="sold,sold"), {}, r"a name for each column.*sold twice"),
    "two rows": (table(GOOD[:2]), {}, r"at least 3 rows.*received 2"),
    "empty lines": ("\n \n", {}, r"a table in a.csv, received a file without text"),
    "latin": (table(GOOD, head="when,größe").encode("latin-1"), {}, r"UTF-8 .*0xf6 in line 1"),
    "utf-16": (table(GOOD).encode("utf-16"), {}, r"UTF-8 .*received UTF-16: save it as UTF-8"),
    "binary": (b"when,sold\n\0\0\0", {}, r"a NUL in line 2"),
    "mostly gaps": (table([*GOOD[:3], "2024-09-01"]), {"fill": True}, r"--fill.*, received 241"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(name):
    text, options, said = REFUSED[name]
    with pytest.raises(DataError, match=said) as caught:
        read(text, **options)
    assert "\n" not in str(caught.value)
    assert "a.csv" in caught.value.expected


def test_seasons_and_features_follow_the_step():
    assert Calendar(0, 1800 * SECOND).seasons == {"day": 48, "week": 336}
    assert Calendar(0, DAY).seasons == {"week": 7, "year": 365}
    assert Calendar(0, 7 * DAY).seasons == {"year": 52}
    assert Calendar(0, 12, "month").seasons == {}
    hourly = Calendar(micro("2024-03-04"), 3600 * SECOND)  # a Monday
    found = calendar_features(hourly, range(24 * 14), ("day", "week"))
    assert found.shape == (24 * 14, len(feature_names(hourly, ("day", "week"))))
    assert np.allclose(found[:168], found[168:])
    assert found[:24, 6:].argmax(1).tolist() == [0] * 24
    assert np.allclose(found[6, :2], [1, 0])
    yearly = calendar_features(Calendar(micro("2023-01-01"), 1, "month"), range(24), ("year",))
    assert np.abs(yearly[:12] - yearly[12:]).max() < 0.04  # the second year has a day more


def test_a_grid_needs_half_of_its_times():
    stamps = np.array([0, 1, 2, 4, 7, 9]) * DAY
    with pytest.raises(DataError, match="one distance"):
        find_calendar(stamps, False, "x", str)


@pytest.mark.parametrize(("season", "horizon"), [(1, 1), (3, 2), (3, 7), (5, 5)])
def test_what_is_said_without_a_model(season, horizon):
    text = table([str(np.datetime64("2024-01-01") + n) for n in range(31)], np.arange(31) ** 2)
    series = read(text)
    y, rows = series.values, range(10, 31)
    wanted, same, before = (
        targets(series, rows, horizon), naive(y, rows, horizon), seasonal(y, rows, season, horizon)
    )  # fmt: skip
    for n, t in enumerate(rows):
        for h in range(1, horizon + 1):
            assert same[n, h - 1] == y[t]
            place = t + h
            while place > t:
                place -= season
            assert before[n, h - 1] == y[place]
            if t + h < 31:
                assert wanted[n, h - 1] == y[t + h]
            else:
                assert np.isnan(wanted[n, h - 1])
    assert scale_of(y, season) == np.mean([abs(y[t] - y[t - season]) for t in range(season, 31)])


def test_no_target_is_a_value_that_was_put_in():
    series = read(table([*GOOD[:5], *GOOD[6:]]), fill=True)
    assert np.isnan(targets(series, range(3, 7), 2)).tolist() == [
        [False, True], [True, False], [False, False], [False, False],
    ]  # fmt: skip
