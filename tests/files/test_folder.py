"""Folders held open: nothing is followed out of them, nothing is half there, nothing is waited for."""

import os
import socket
from pathlib import Path

import pytest

from bptt.errors import ArgumentError, RunError
from bptt.files import folder as folders
from bptt.files.folder import Folder, WrongKindError, temporary_name
from bptt.files.write import append_line, write_file, write_folder

KINDS = {
    "link to a file": "a symbolic link",
    "link to a folder": "a symbolic link",
    "link to nothing": "a symbolic link",
    "link to itself": "a symbolic link",
    "pipe": "a pipe",
    "socket": "a socket",
    "folder": "a folder",
}


@pytest.fixture(params=[True, False], ids=["by handle", "by path"])
def inside(request, tmp_path, monkeypatch):
    """A folder, with another one outside of it; also as on a system that opens no folders."""
    if not request.param:
        monkeypatch.setattr(folders, "_BY_HANDLE", False)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"precious")
    (tmp_path / "inside").mkdir()
    with Folder.open(tmp_path / "inside") as opened:
        yield opened
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["file"]
    assert (tmp_path / "outside" / "file").read_bytes() == b"precious"


def put(path: Path, kind: str) -> None:
    outside = path.parent.parent / "outside"
    if kind == "link to a file":
        path.symlink_to(outside / "file")
    elif kind == "link to a folder":
        path.symlink_to(outside)
    elif kind == "link to nothing":
        path.symlink_to(outside / "new")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", ["reader", "read", "changer"])
def test_what_is_no_file_is_neither_read_nor_changed(act, kind, inside):
    put(inside.path / "name", kind)
    with pytest.raises(WrongKindError) as info:
        getattr(inside, act)("name")
    assert info.value.strerror == KINDS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_what_is_no_folder_is_not_entered(kind, inside):
    put(inside.path / "name", kind)
    with pytest.raises(WrongKindError) as info:
        inside.folder("name")
    assert info.value.strerror == KINDS[kind]
    with pytest.raises(WrongKindError):
        Folder.open(inside.path / "name")


def test_a_folder_whose_name_was_typed_may_be_a_link(inside):
    put(inside.path / "name", "link to a folder")
    with Folder.open(inside.path / "name", follow=True) as opened:
        assert opened.names() == ["file"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_file_is_created_and_never_opened(kind, inside):
    put(inside.path / "name", kind)
    with pytest.raises(FileExistsError):
        inside.write("name", b"new")
    with pytest.raises(FileExistsError):
        inside.make("name")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_takes_the_place_of_a_link_and_of_nothing_else(kind, inside):
    put(inside.path / "name", kind)
    if kind.startswith("link"):
        inside.replace("name", b"new")
        assert inside.read("name") == b"new"
    else:
        with pytest.raises(WrongKindError):
            inside.replace("name", b"new")
    assert inside.names() == ["name"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_removed_takes_nothing_outside_with_it(kind, inside):
    (inside.path / "tree").mkdir()
    put(inside.path / "tree" / "name", "folder")
    (inside.path / "tree" / "name" / "link").symlink_to(inside.path.parent / "outside")
    put(inside.path / "name", kind)
    inside.remove("name")
    inside.remove("tree")
    assert inside.names() == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
@pytest.mark.parametrize("instead", [False, True])
def test_a_folder_appears_whole_or_not_at_all(instead, kind, inside):
    put(inside.path / "name", kind)

    def write():
        with inside.new_folder("name", instead=instead) as fresh:
            fresh.write("a", b"1")
            assert inside.names() == sorted([fresh.path.name, "name"])

    if instead:
        write()
        assert (inside.path / "name" / "a").read_bytes() == b"1"
    else:
        with pytest.raises(OSError, match=r"directory|exists"):
            write()
    assert inside.names() == ["name"]


def test_a_folder_that_is_not_finished_leaves_nothing(inside):
    def write():
        with inside.new_folder("other") as fresh:
            assert inside.names() == [fresh.path.name]
            fresh.write("a", b"1")
            fresh.write("a", b"2")

    with pytest.raises(FileExistsError):
        write()
    assert inside.names() == []


def test_a_file_with_a_second_name_is_read_and_replaced_but_not_changed(inside):
    (inside.path / "name").hardlink_to(inside.path.parent / "outside" / "file")
    assert inside.read("name") == b"precious"
    with pytest.raises(WrongKindError) as info:
        inside.append("name", b"more")
    assert info.value.strerror == "a file with a second name (a hard link)"
    inside.replace("name", b"new")
    inside.append("name", b" and more")
    assert inside.read("name") == b"new and more"


def test_nobody_can_guess_a_temporary_name():
    names = {temporary_name("result.json") for _ in range(100)}
    assert len(names) == 100
    assert all(len(name.split(".")[3]) == 16 for name in names)  # 64 bits
    assert len(temporary_name("😀" * 200).encode()) < 255


def test_sizes_and_depths_have_an_end(inside):
    inside.write("large", b"x" * 100)
    assert inside.read("large", 100) == b"x" * 100
    with pytest.raises(WrongKindError) as info:
        inside.read("large", 99)
    assert info.value.strerror == "a file of 100 bytes"
    deep = inside.path / "deep"
    deep.joinpath(*["d"] * 30).mkdir(parents=True)
    with pytest.raises(WrongKindError, match="folders within each other"):
        inside.remove("deep")


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_folders_whose_name_was_typed(kind, inside):
    path = inside.path / "name"
    writes = (
        lambda: write_file(path, "text"),
        lambda: append_line(path, "line", "name another"),
        lambda: write_folder(path, {"a": "1"}),
    )
    for act in writes:
        put(path, kind)
        if kind.startswith("link") and act is writes[0]:
            act()
            assert path.read_text() == "text"
        elif kind == "folder" and act is writes[2]:
            assert (act() / "a").read_text() == "1"
        else:
            with pytest.raises((RunError, ArgumentError), match=r"^expected a.* at |a new"):
                act()
        inside.remove("name")
    assert inside.names() == []
