"""A series with its calendar out of a CSV file.

The separator and the way times are written are found by looking; the column of times is the one that
holds times. What does not fit is refused with its line: nothing is sorted, dropped or guessed. Only with
``fill`` is something put in place of a missing value, the last one before it: a line to the next one
would tell a forecast what comes. ``known`` says where, and no score counts it.

Limits: one column of numbers, and the times that :mod:`bptt.data.calendar` has.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bptt.data.calendar import WAYS, Calendar, Floats, Stamps, find_calendar, moment, way_of
from bptt.data.source import Source
from bptt.errors import DataError
from bptt.shown.text import inline


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers on a calendar.

    Attributes:
        name: of the column.
        values: (N,), finite; in place of a missing one, the last before it.
        known: (N,) bool: whether the file has the value.
        calendar: when each is.
    """

    name: str
    values: Floats
    known: NDArray[np.bool_]
    calendar: Calendar

    def to_csv(self) -> str:
        """The series as a file that :func:`read_series` reads back, with ``fill``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["time" if self.name != "time" else "time of it", self.name])
        for time, value, known in zip(
            self.calendar.at(np.arange(len(self.values))), self.values, self.known, strict=True
        ):
            writer.writerow([self.calendar.stamp(time), repr(float(value)) if known else ""])
        return text.getvalue()


def read_series(
    source: Source,
    column: str | None = None,
    time: str | None = None,
    *,
    fill: bool = False,
    decimal_comma: bool = False,
) -> Series:
    """Read one column of a CSV file and the times of its rows.

    Args:
        source: the file.
        column: the name of the column of numbers; None where there is only one.
        time: the name of the column of times; None for the one that holds times.
        fill: put the last value before it in place of a missing one.
        decimal_comma: numbers are written 12,5.

    Raises:
        DataError: what does not fit, with its line and what to do.

    Cost: one pass over the file, in memory; about a second for 300,000 rows.

    Example:
        >>> text = "day,sold\\n2024-03-01,5\\n2024-03-02,7\\n2024-03-03,6\\n"
        >>> series = read_series(Source.of_text(text, "shop.csv"), "sold")
        >>> series.calendar.words, series.values
        ('daily', array([5., 7., 6.]))
    """
    table = _Table(source)
    value_at = None if column is None else table.find(column, "--column")
    time_at = table.time_column(time, value_at)
    if value_at is None:
        value_at = table.value_column(time_at, decimal_comma)
    stamps, utc = table.times(time_at)
    numbers = table.numbers(value_at, decimal_comma, fill)
    table.require_ascending(stamps, time_at)
    where = f"{table.head[time_at]} of {table.name}"
    calendar, index = find_calendar(stamps, utc, where, lambda n: table.told(n, time_at))
    table.require_whole(index, stamps, fill, calendar)
    values = np.full(int(index[-1]) + 1, np.nan)
    values[index] = numbers
    known = np.isfinite(values)
    if not known.all():
        places = np.flatnonzero(known)
        first, last = int(places[0]), int(places[-1]) + 1  # nothing is put in before and after
        values, known = values[first:last], known[first:last]
        places = places - first
        start = calendar.at(first).astype(np.int64)
        calendar = replace(calendar, start=int(start))
        values = values[np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))]
    return Series(table.head[value_at], values, known, calendar)


# What follows each step of a series, and what can be said of it without a model.


def targets(series: Series, rows: range, horizon: int) -> Floats:
    """What comes after each step, (rows, H); NaN beyond the end, and for a value that was put in."""
    after = np.where(series.known, series.values, np.nan)
    after = np.concatenate([after, np.full(horizon, np.nan)])
    return sliding_window_view(after, horizon)[rows.start + 1 : rows.stop + 1]


def naive(values: Floats, rows: range, horizon: int) -> Floats:
    """It stays as it is: (rows, H)."""
    return np.repeat(values[rows.start : rows.stop, None], horizon, axis=1)


def seasonal(values: Floats, rows: range, season: int, horizon: int) -> Floats:
    """As it was a season before, (rows, H): the last one that is known."""
    ahead = np.arange(1, horizon + 1)
    places = np.arange(rows.start, rows.stop)[:, None] + ahead - season * -(-ahead // season)
    return values[np.maximum(places, 0)]


def scale_of(values: Floats, season: int) -> float:
    """What MASE divides by: the mean error of "as a season before", one step ahead, in these values.

    Source: R. J. Hyndman and A. B. Koehler, 2006, Another look at measures of forecast accuracy.
    """
    return float(np.abs(values[season:] - values[:-season]).mean())


class _Row(NamedTuple):
    line: int
    cells: list[str]


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", ".", "#n/a"}
_TIMES = {
    "time", "date", "datetime", "timestamp", "day", "month", "year", "ds", "week", "hour", "period"
}  # fmt: skip
_LOOK, _MOST = (
    50,
    0.8,
)  # rows looked at to find what a column holds, and the share that has to hold it


class _Table:
    """The cells of a file, and complaints about them by line."""

    def __init__(self, source: Source) -> None:
        self.name = inline(source.name)
        text = self._decode(b"".join(bytes(b) for b in source.blocks(as_bytes=True)))
        lines = text.splitlines()
        begin = next((line for line in lines if line.strip()), "")
        if not begin:
            self.refuse("a table", "a file without text", "give a CSV file")
        delimiter = max(_DELIMITERS, key=begin.count)
        if not begin.count(delimiter):
            self.refuse(
                "columns separated by commas, semicolons, tabs or bars",
                f"one column, {begin:.60}",
                "give a column of times and one of numbers, the names in the first line",
            )
        self.delimiter = _DELIMITERS[delimiter]
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            rows = [
                _Row(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)
            ]
        except csv.Error as error:
            self.refuse("a CSV file", str(error), "mend the file")
        self.head = [cell.strip() for cell in rows[0].cells]
        self.rows = rows[1:]
        self._check_head()
        for row in self.rows:
            if len(row.cells) != len(self.head):
                comma = delimiter == "," and len(row.cells) > len(self.head)
                why = "; decimal commas need ; between the columns" if comma else ""
                self.refuse(
                    f"{len(self.head)} cells in each line, as in the first",
                    f"{len(row.cells)} in line {row.line}",
                    f"mend that line{why}",
                )
        if not self.rows:
            self.refuse("rows under the names", "none", "give a file with values")

    def refuse(self, expected: str, received: str, remedy: str) -> NoReturn:
        raise DataError(f"{expected} in {self.name}", received, remedy)

    def told(self, n: int, at: int) -> str:
        """A cell and its line, for a message."""
        return f"{self.rows[n].cells[at].strip()} in line {self.rows[n].line}"

    def _decode(self, data: bytes) -> str:
        for mark, what in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
            if data.startswith(mark):
                self.refuse("UTF-8", what, "save it as UTF-8 (spreadsheets call that CSV UTF-8)")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.refuse(
                "UTF-8",
                f"the byte 0x{data[error.start]:02x} in line {line}",
                "save it as UTF-8 (spreadsheets call that CSV UTF-8)",
            )
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            self.refuse("text", f"a NUL in line {line}", "give a CSV file, not a binary one")
        return text

    def _check_head(self) -> None:
        if any(_number(c, True) is not None or way_of(c) is not None for c in self.head):
            self.refuse(
                "names of columns in the first line", ", ".join(self.head)[:80],
                "put a line of names above the values, as in time,value",
            )  # fmt: skip
        twice = [n for n, count in Counter(self.head).items() if count > 1 and n]
        if twice:
            self.refuse("a name for each column", f"{twice[0]} twice", "rename one of them")

    def find(self, name: str, flag: str) -> int:
        """The place of a column."""
        if name not in self.head:
            self._miss(name, flag)
        return self.head.index(name)

    def _miss(self, name: str, flag: str) -> NoReturn:
        folded = {n.casefold(): n for n in self.head}
        close = difflib.get_close_matches(name.casefold(), folded, 1, 0.6)
        hint = f"did you mean {flag} {folded[close[0]]}? " if close else ""
        self.refuse(
            f"a column of the name after {flag}", repr(name)[:80],
            f"{hint}there are {self._columns()}",
        )  # fmt: skip

    def _columns(self) -> str:
        shown = ", ".join(name or "one without a name" for name in self.head[:12])
        return shown + (f" and {len(self.head) - 12} more" if len(self.head) > 12 else "")

    def _held(self, at: int) -> list[str]:
        """What the first rows of a column hold."""
        cells = [row.cells[at].strip() for row in self.rows[:_LOOK]]
        return [cell for cell in cells if cell.casefold() not in _MISSING]

    def _numeric(self, but: set[int], comma: bool) -> list[int]:
        """Columns whose first rows hold numbers, most of them."""
        found = []
        for at in range(len(self.head)):
            numbers = [_number(cell, comma) is not None for cell in self._held(at)]
            if at not in but and numbers and sum(numbers) >= _MOST * len(numbers):
                found.append(at)
        return found

    def value_column(self, time_at: int, comma: bool) -> int:
        """Where the numbers are, in a table that has one column of them."""
        others = [at for at in range(len(self.head)) if at != time_at]
        found = others if len(others) == 1 else self._numeric({time_at}, comma)
        if len(found) != 1:
            names = ", ".join(self.head[at] for at in found) or f"none among {self._columns()}"
            self.refuse(
                "one column of numbers beside the times, or --column",
                names if len(found) < 9 else f"{len(found)} columns of numbers",
                f"name one: --column {self.head[found[0]]}" if found else "name one with --column",
            )
        return found[0]

    def _timely(self, but: set[int]) -> list[int]:
        """Columns whose first rows hold times, those with a name of a time first, if there are any."""
        found = []
        for at, name in enumerate(self.head):
            ways = Counter(way_of(cell) for cell in self._held(at))
            way, count = ways.most_common(1)[0] if ways else (None, 0)
            named = any(word in _TIMES for word in re.split(r"[^a-z]+", name.casefold()))
            # A whole number may be a year, and anything else as well: its name decides.
            likely = way is not None and (named or way not in ("year", "compact", "unix"))
            if at not in but and likely and count >= _MOST * sum(ways.values()):
                found.append((not named, at))
        return [at for first, at in found if first == min(found)[0]]

    def time_column(self, time: str | None, value_at: int | None) -> int:
        """Where the times are."""
        if time is not None:
            at = self.find(time, "--time")
            if at == value_at:
                self.refuse("--time and --column to differ", f"{time} twice", "name two columns")
            return at
        found = self._timely(set() if value_at is None else {value_at})
        if len(found) != 1:
            names = ", ".join(self.head[at] for at in found)
            self.refuse(
                "one column of times, or --time", names or f"none among {self._columns()}",
                f"name one: --time {self.head[found[0]]}" if found else "name it with --time; "
                "times are written as 2024-03-01, 2024-03-01 17:30, 01.03.2024 or 2024-03",
            )  # fmt: skip
        return found[0]

    def times(self, at: int) -> tuple[Stamps, bool]:
        """The times of all rows in microseconds since 1970, and whether they are those of UTC."""
        cells = [row.cells[at].strip() for row in self.rows]
        way = way_of(cells[0])
        matches = [WAYS[way].fullmatch(cell) if way else None for cell in cells]
        day_first = way == "dotted"
        if way == "slashed":
            pairs = [(int(m[1]), int(m[2])) for m in matches if m]
            day_first, month_first = (any(p[n] > 12 for p in pairs) for n in (0, 1))
            if day_first == month_first:
                self.refuse(
                    f"dates that can be read in one way in {self.head[at]}", cells[0],
                    "write them as 2024-03-01",
                )  # fmt: skip
        found, zones = np.empty(len(cells), np.int64), set()
        for n, match in enumerate(matches):
            stamp = None if match is None or way is None else moment(way, match, day_first)
            if stamp is None:
                self.refuse(
                    f"a time in every row of {self.head[at]}",
                    f"{cells[n] or 'nothing'!r:.60} in line {self.rows[n].line}"
                    if cells[n] else f"nothing in line {self.rows[n].line}",
                    f"write it as the first one is, {cells[0]}" if way and n else
                    "write times as 2024-03-01, 2024-03-01 17:30, 01.03.2024 or 2024-03",
                )  # fmt: skip
            found[n], zone = stamp
            zones.add(zone)
        if len(zones) > 1:
            self.refuse(
                f"an offset from UTC at every time in {self.head[at]}, or at none", "both kinds",
                "write all of them in one way",
            )  # fmt: skip
        return found, True in zones

    def numbers(self, at: int, comma: bool, fill: bool) -> Floats:
        """The numbers of all rows; NaN for a missing one, if ``fill``."""
        found, missing = np.empty(len(self.rows)), []
        for n, row in enumerate(self.rows):
            cell = row.cells[at].strip()
            value = _number(cell, comma)
            if value is None and cell.casefold() not in _MISSING:
                self._no_number(at, cell, row.line, comma)
            if value is None:
                missing.append(row.line)
            found[n] = np.nan if value is None else value
        if len(missing) == len(self.rows):
            self.refuse(f"numbers in {self.head[at]}", "none", "name another --column")
        if missing and not fill:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            self.refuse(
                f"a number in every row of {self.head[at]}",
                f"none in line {missing[0]}{more}",
                "put them in, or give --fill: the last value before it, which no score counts",
            )
        return found

    def _no_number(self, at: int, cell: str, line: int, comma: bool) -> NoReturn:
        remedy = "mend that line"
        if not comma and _number(cell, True) is not None:
            remedy = "write 12.5 and not 12,5, or give --decimal-comma"
        elif line == self.rows[0].line:
            others = [self.head[n] for n in self._numeric({at}, comma)][:6]
            remedy = f"name a column of numbers: {', '.join(others) or 'there is none'}"
        self.refuse(f"finite numbers in {self.head[at]}", f"{cell!r:.60} in line {line}", remedy)

    def require_ascending(self, stamps: Stamps, at: int) -> None:
        """Raise where a time is there twice, or goes back."""
        if len(stamps) < 3:
            self.refuse("at least 3 rows", str(len(stamps)), "give a longer series")
        back = np.flatnonzero(np.diff(stamps) <= 0)
        if not len(back):
            return
        n = int(back[0]) + 1
        before, here = self.rows[n - 1], self.rows[n]
        if stamps[n] == stamps[n - 1]:
            self.refuse(
                f"each time once in {self.head[at]}",
                f"{here.cells[at].strip()} in lines {before.line} and {here.line}",
                "keep one of them; of hours at the end of summer time, write the offset from UTC",
            )
        self.refuse(
            f"ascending times in {self.head[at]}",
            f"{here.cells[at].strip()} after {before.cells[at].strip()} in line {here.line}",
            "sort the file by time",
        )

    def require_whole(self, index: Stamps, stamps: Stamps, fill: bool, calendar: Calendar) -> None:
        """Raise where times are missing between the first and the last."""
        jumps = np.flatnonzero(np.diff(index) > 1)
        missing = int(index[-1]) + 1 - len(index)
        if fill and missing > len(index):
            self.refuse(
                "at most as many missing times as there are rows, to --fill", f"{missing:,}",
                "give a part of the series with fewer gaps",
            )  # fmt: skip
        if fill or not len(jumps):
            return
        n = int(jumps[0])
        before, after = (calendar.stamp(np.datetime64(int(stamps[i]), "us")) for i in (n, n + 1))
        others = len(jumps) - 1
        more = f", and {others:,} more gap{'s' * (others > 1)}" if others else ""
        self.refuse(
            f"a row for every step of a series that is {calendar.words}",
            f"none between {before} and {after}, line {self.rows[n + 1].line}{more}",
            "put the rows in, or give --fill: the last value before them, which no score counts",
        )


def _number(cell: str, comma: bool) -> float | None:
    """A finite number; None for anything else."""
    text = cell.strip()
    if comma and re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", text):
        text = text.replace(",", ".")
    if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text, re.ASCII):
        return None
    value = float(text)
    return value if abs(value) < float("inf") else None
