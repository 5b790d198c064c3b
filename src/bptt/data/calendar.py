"""The calendar of a series: a regular grid of times, found from the times of its rows, and how times are
written.

Limits: times at one distance, of microseconds up to years, in months, or on the five working days.
Times with an offset from UTC become UTC. A day of 23 or 25 hours is a gap, or a time that is there
twice: write such times with their offset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bptt.errors import DataError

Floats = NDArray[np.float64]
Stamps = NDArray[np.int64]  # microseconds since 1970
Unit = Literal["time", "month", "working day"]
SECOND, DAY = 1_000_000, 86_400_000_000  # in microseconds
_NAMED = {
    SECOND: "every second", 60 * SECOND: "every minute", 3600 * SECOND: "hourly", DAY: "daily",
    7 * DAY: "weekly",
}  # fmt: skip
_MONTHS = {1: "monthly", 3: "quarterly", 12: "yearly"}
_SIZES = (("day", DAY), ("hour", 3600 * SECOND), ("minute", 60 * SECOND), ("second", SECOND))


@dataclass(frozen=True)
class Calendar:
    """When each value of a series is: the grid of its times.

    Attributes:
        start: the first time, microseconds since 1970.
        step: from one time to the next: microseconds, months or working days.
        unit: what ``step`` counts.
        day: of the month, where the unit is a month; 31 is its last day.
        utc: whether the times came with an offset, and are those of UTC now.
    """

    start: int
    step: int
    unit: Unit = "time"
    day: int = 1
    utc: bool = False

    def at(self, index: Any) -> NDArray[np.datetime64]:
        """The times of the values at ``index``, which may lie beyond the series.

        Example:
            >>> monthly = Calendar(0, 1, "month", day=31)
            >>> [str(t)[:10] for t in monthly.at([0, 1, 12])]
            ['1970-01-31', '1970-02-28', '1971-01-31']
        """
        n = np.asarray(index, dtype=np.int64)
        start = np.datetime64(self.start, "us")
        if self.unit == "time":
            return start + (n * self.step).astype("timedelta64[us]")
        clock = start - start.astype("datetime64[D]")
        if self.unit == "working day":
            days = np.busday_offset(start.astype("datetime64[D]"), n * self.step, roll="forward")
            return days.astype("datetime64[us]") + clock
        months = start.astype("datetime64[M]") + (n * self.step).astype("timedelta64[M]")
        return _in_month(months, self.day) + clock

    def stamp(self, time: np.datetime64) -> str:
        """A time as it is shown, as short as the grid allows."""
        whole = self.unit != "time" or self.step % DAY == 0
        text = str(time.astype("datetime64[us]")).replace("T", " ")
        if whole and self.start % DAY == 0:
            return text[:10]
        text = text.removesuffix(".000000")
        if (self.unit != "time" or self.step % (60 * SECOND) == 0) and self.start % (
            60 * SECOND
        ) == 0:
            text = text[:16]
        return text + ("+00:00" if self.utc else "")

    @property
    def words(self) -> str:
        """How often there is a value.

        Example:
            >>> Calendar(0, DAY // 48).words, Calendar(0, 3, "month").words, Calendar(0, 2 * DAY).words
            ('every 30 minutes', 'quarterly', 'every 2 days')
        """
        if self.unit == "working day":
            return "on working days"
        if self.unit == "month":
            years = self.step % 12 == 0
            count, name = (self.step // 12, "years") if years else (self.step, "months")
            return _MONTHS.get(self.step, f"every {count} {name}")
        if self.step in _NAMED:
            return _NAMED[self.step]
        for name, size in _SIZES:
            if self.step % size == 0:
                return f"every {self.step // size} {name}s"
        return f"every {self.step / 1000:g} milliseconds"

    @property
    def seasons(self) -> dict[str, int]:
        """Steps that a day, a week, a year have, where they have a whole number of several.

        Example:
            >>> Calendar(0, DAY // 24).seasons, Calendar(0, 1, "month").seasons
            ({'day': 24, 'week': 168}, {'year': 12})
        """
        if self.unit == "month":
            return {"year": 12 // self.step} if self.step < 12 and 12 % self.step == 0 else {}
        if self.unit == "working day":
            return {"week": 5} if self.step == 1 else {}
        found = {n: size // self.step for n, size in (("day", DAY), ("week", 7 * DAY))
                 if size % self.step == 0 and size > self.step}  # fmt: skip
        if DAY <= self.step <= 61 * DAY:
            found["year"] = round(365.25 * DAY / self.step)
        return found


def calendar_features(calendar: Calendar, index: Any, parts: tuple[str, ...]) -> Floats:
    """Numbers that say where in the day, the week, the year a step is.

    Args:
        calendar: of the series.
        index: of the steps, (N,).
        parts: among ``"day"``, ``"week"`` and ``"year"``.

    Returns:
        (N, F): of the day three waves (sine and cosine), of the week a one for the weekday, of the year
        two waves; where a day has fewer steps, as many waves as they can show.

    Example:
        >>> calendar_features(Calendar(0, DAY), range(3), ("week",)).argmax(1)  # Thursday came first
        array([3, 4, 5])
    """
    times = calendar.at(index)
    columns: list[Floats] = []
    days = times.astype("datetime64[D]")
    clock = (times - days).astype(np.int64) / DAY
    if "day" in parts:
        columns += _waves(clock, min(3, calendar.seasons.get("day", 6) // 2))
    if "week" in parts:
        weekday = (days.astype(np.int64) + 3) % 7
        columns += [(weekday == n).astype(float) for n in range(7)]
    if "year" in parts:
        year = days.astype("datetime64[Y]")
        length = ((year + 1).astype("datetime64[D]") - year.astype("datetime64[D]")).astype(float)
        place = ((days - year).astype(np.int64) + clock) / length
        columns += _waves(place, min(2, calendar.seasons.get("year", 4) // 2))
    return np.stack(columns, 1) if columns else np.zeros((len(times), 0))


def feature_names(calendar: Calendar, parts: tuple[str, ...]) -> list[str]:
    """What each number of :func:`calendar_features` is.

    Example:
        >>> feature_names(Calendar(0, 1, "month"), ("year",))[:2]
        ['sin of 1 times the turn of the year', 'cos of 1 times the turn of the year']
    """
    names: list[str] = []
    for part, most in (("day", 3), ("week", 0), ("year", 2)):
        if part in parts and part == "week":
            days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
            names += [f"1 on a {day}, else 0" for day in days]
        elif part in parts:
            count = min(most, calendar.seasons.get(part, 2 * most) // 2)
            waves = [(w, n) for n in range(1, count + 1) for w in ("sin", "cos")]
            names += [f"{wave} of {n} times the turn of the {part}" for wave, n in waves]
    return names


def _waves(place: Floats, count: int) -> list[Floats]:
    turns = [2 * np.pi * n * place for n in range(1, count + 1)]
    return [wave(turn) for turn in turns for wave in (np.sin, np.cos)]


# The grid that times lie on.


def find_calendar(
    stamps: Stamps, utc: bool, where: str, told: Callable[[int], str]
) -> tuple[Calendar, NDArray[np.int64]]:
    """The grid that ascending times lie on, and the place of each.

    Args:
        stamps: microseconds since 1970, (N,), at least two.
        utc: whether they came with an offset.
        where: the column and the file, for messages.
        told: how a message calls the time of a row.

    Returns:
        The calendar, and the index of each time on it, from 0; a gap is an index that is left out.

    Raises:
        DataError: they lie on no regular grid.
    """
    times = stamps.astype("datetime64[us]")
    days = times.astype("datetime64[D]")
    clocks = (times - days).astype(np.int64)
    months = times.astype("datetime64[M]")
    day = int((days - months.astype("datetime64[D]")).astype(np.int64).max()) + 1
    one_clock = bool((clocks == clocks[0]).all())
    gaps = np.diff(stamps)
    weekdays = (days.astype(np.int64) + 3) % 7
    if one_clock and bool((_in_month(months, day).astype("datetime64[D]") == days).all()):
        place = (months - months[0]).astype(np.int64)
        step = _usual(np.diff(place))
        calendar = Calendar(int(stamps[0]), step, "month", day, utc)
    elif one_clock and _usual(gaps) == DAY and _rests(gaps, weekdays):
        place = np.busday_count(days[0], days).astype(np.int64)
        calendar = Calendar(int(stamps[0]), 1, "working day", 1, utc)
    else:
        step = _usual(gaps)
        if step >= 28 * DAY:
            _require_one_day(days, months, where, told)
        if np.mean(gaps == step) < 0.5:
            found = Counter(gaps.tolist()).most_common(2)
            shown = " and ".join(Calendar(0, size).words for size, _ in found)
            raise DataError(
                f"times at one distance in {where}",
                f"many distances, most often {shown}",
                "bring the series onto a regular grid first: a mean for each hour or day, for instance",
            )
        place, calendar = stamps - stamps[0], Calendar(int(stamps[0]), step, "time", 1, utc)
    off = np.flatnonzero(place % calendar.step)
    if len(off):
        raise _off_grid(calendar, where, told(int(off[0])))
    return calendar, place // calendar.step


def _require_one_day(days: Any, months: Any, where: str, told: Callable[[int], str]) -> None:
    """Raise for the first time on another day of its month than most: a month that is not over, say."""
    day = _usual((days - months.astype("datetime64[D]")).astype(np.int64)) + 1
    on = _in_month(months, day).astype("datetime64[D]") == days
    if 0.5 < on.mean() < 1:
        grid = Calendar(0, _usual(np.diff(months[on]).astype(np.int64)), "month", day)
        raise _off_grid(grid, where, told(int(np.flatnonzero(~on)[0])))


def _off_grid(calendar: Calendar, where: str, time: str) -> DataError:
    return DataError(
        f"times on the grid of a series that is {calendar.words} in {where}",
        time,
        "mend that time, or bring the series onto a regular grid first",
    )


def _usual(gaps: NDArray[np.int64]) -> int:
    values, counts = np.unique(gaps, return_counts=True)
    return int(values[counts.argmax()])


def _rests(gaps: NDArray[np.int64], weekdays: NDArray[np.int64]) -> bool:
    """Whether no time lies on a weekend, and weekends are passed over."""
    return bool((weekdays < 5).all() and ((gaps == 3 * DAY) & (weekdays[:-1] == 4)).any())


def _in_month(months: Any, day: int) -> NDArray[np.datetime64]:
    """The day of each month, its last one where it has fewer days."""
    last = (months + 1).astype("datetime64[D]") - 1
    return np.minimum(months.astype("datetime64[D]") + (day - 1), last).astype("datetime64[us]")


# How times are written.

_CLOCK = (
    r"(?:(?:[T ]|, )\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
    r"\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?"
)
WAYS = {
    "iso": re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + _CLOCK),
    "dotted": re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})" + _CLOCK),
    "slashed": re.compile(r"(\d{1,2})[-/](\d{1,2})[-/](\d{4})" + _CLOCK),
    "quarter": re.compile(r"(\d{4})[-/ ]?[Qq]([1-4])"),
    "month": re.compile(r"(\d{4})[-/](\d{1,2})"),
    "compact": re.compile(r"((?:1[5-9]|2[01])\d\d)(\d\d)(\d\d)"),
    "unix": re.compile(r"(\d{9,10})(?:\.(\d{1,6}))?"),
    "year": re.compile(r"((?:1[5-9]|2[01])\d\d)"),
}


def way_of(cell: str) -> str | None:
    """The way in which a time is written; None where it is none."""
    return next((way for way, form in WAYS.items() if form.fullmatch(cell)), None)


def moment(way: str, match: re.Match[str], day_first: bool) -> tuple[int, bool] | None:
    """Microseconds since 1970, and whether of UTC; None where no calendar has that day or hour."""
    parts = match.groups()
    if way == "unix":
        return int(parts[0]) * SECOND + int((parts[1] or "0").ljust(6, "0")), True
    year, month, day = int(parts[0]), 1, 1
    clock: tuple[str | None, ...] = (None,) * 6
    if way in ("iso", "compact"):
        month, day, clock = int(parts[1]), int(parts[2]), parts[3:] or clock
    elif way in ("dotted", "slashed"):
        day, month = (int(parts[0]), int(parts[1])) if day_first else (int(parts[1]), int(parts[0]))
        year, clock = int(parts[2]), parts[3:]
    elif way == "month":
        month = int(parts[1])
    elif way == "quarter":
        month = 3 * int(parts[1]) - 2
    if not 1 <= month <= 12 or day < 1:
        return None
    first = np.datetime64(f"{year:04}-{month:02}", "M")
    date = first.astype("datetime64[D]") + (day - 1)
    if date.astype("datetime64[M]") != first:
        return None
    hour, minute, second = (int(part or 0) for part in clock[:3])
    if clock[4]:
        hour = hour % 12 + (12 if clock[4].casefold() == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    fraction = int((clock[3] or "0")[:6].ljust(6, "0"))
    moment = (
        int(date.astype(np.int64)) * DAY + (3600 * hour + 60 * minute + second) * SECOND + fraction
    )
    zone = clock[5]
    if zone and zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        away = (3600 * int(digits[:2]) + 60 * int(digits[2:])) * SECOND
        moment -= away if zone[0] == "+" else -away
    return moment, bool(zone)
