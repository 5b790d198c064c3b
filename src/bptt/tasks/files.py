"""Tasks on real data: where their files lie, and what to do when they do not."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from bptt.errors import DataError
from bptt.files.read import read_plain


def read_text(name: str, file: str, folder: str | Path | None) -> str:
    """A file that ``bptt data fetch NAME`` wrote; by default into ``data/NAME``."""
    path = (Path("data") / name if folder is None else Path(folder)) / file
    try:
        return read_plain(path)
    except (OSError, ValueError) as error:  # not UTF-8, or a NUL in the name
        raise DataError(
            f"the data set {name!r} at {str(path)[:200]}",
            str(error.strerror if isinstance(error, OSError) else error),
            f"run: bptt data fetch {name}, or name its folder",
        ) from None


def read_table(name: str, text: str, columns: int, header: bool = False) -> list[list[str]]:
    """The rows of a CSV file, all of the same width."""
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row][int(header) :]
    except csv.Error as error:
        raise broken(name, "a table", str(error)) from None
    if not rows or any(len(row) != columns for row in rows):
        raise broken(name, f"{columns} columns a line", "another table")
    return rows


def read_ts(name: str, text: str) -> tuple[list[Tensor], Tensor]:
    """Series ``(T, dims)`` float32 and labels from a ``.ts`` file of the UEA archive.

    Example:
        >>> series, labels = read_ts("made", "@data\\n1,2:3,4:b\\n5:6:a\\n")
        >>> series[0].tolist(), labels.tolist()
        ([[1.0, 3.0], [2.0, 4.0]], [1, 0])
    """
    lines = [line.strip() for line in text.splitlines()]
    starts = [number for number, line in enumerate(lines) if line.lower() == "@data"]
    if not starts:
        raise broken(name, "a line @data", "none")
    series, names = [], []
    for line in filter(None, lines[starts[0] + 1 :]):
        *channels, label = line.split(":")
        try:
            values = [[float(v) for v in channel.split(",")] for channel in channels]
            series.append(torch.tensor(values).transpose(0, -1).contiguous())
        except (ValueError, IndexError) as error:
            raise broken(name, "numbers, as many in each channel", str(error)) from None
        names.append(label)
    if not series or len({each.shape[1:] for each in series}) > 1 or series[0].dim() != 2:
        raise broken(name, "series of as many channels each", "none, or others")
    classes = {label: place for place, label in enumerate(sorted(set(names)))}
    return series, torch.tensor([classes[label] for label in names])


def broken(name: str, expected: str, received: str) -> DataError:
    """The error for a file that is not what was fetched."""
    return DataError(
        f"{expected} in {name!r}", received, f"remove it and run: bptt data fetch {name}"
    )


def frequency(labels: Tensor) -> float:
    """Share of the most frequent label: the best answer that looks at no input."""
    return float(labels.bincount().max()) / len(labels)
