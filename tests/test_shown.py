"""What is shown: no character that a terminal obeys, no letter that ends a program, JSON that is JSON."""

import io
import json
import math
import re
import sys
import unicodedata

import pytest
from rich.console import Console as RichConsole
from rich.table import Table

from bptt.errors import BpttError, DataError
from bptt.shown.console import Console, plain
from bptt.shown.text import Shown, as_json, inline, printable, shown_output, unescaped

DIRECTIONS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
CONTROLS = [
    *(set(range(0x20)) - {ord("\n"), ord("\t")}), *range(0x7F, 0xA0), *DIRECTIONS,
    0xD800, 0xDBFF, 0xDC80, 0xDC9B, 0xDCE9, 0xDFFF,
]  # fmt: skip
ENCODINGS = ["ascii", "cp1252", "latin-1", "koi8-r", "shift_jis", "gb18030", "utf-8", "utf-16"]
LETTERS = "größe “quoted” 日本語 😀 Ω █ ≥ й"
# What people do with them: a window's title, the clipboard, colours, a link, a line overwritten, a report
# that the terminal types back, C1 forms, letters in another order.
ATTACKS = [
    "\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x07", "\x1b[31mred", "\x1b]8;;file:///etc\x1b\\link",
    "good\rbad", "abc\b\b\bxyz", "\x1b[6n", "\x9b31m", "\x9d0;owned\x9c", "\u202eevil\u202c",
    "\u2066a\u2069", "bell\a", "nul\0", "\x0eshifted",
]  # fmt: skip


@pytest.mark.parametrize("point", CONTROLS, ids=hex)
def test_a_control_character_is_an_escape(point):
    shown = printable(f"a{chr(point)}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert f"a{shown[1:-1]}b" == shown
    assert shown[1:-1].encode().decode("unicode_escape") == chr(point)  # it says which


def test_every_control_character_of_unicode_is_escaped_and_nothing_else():
    escaped = {p for p in range(0x110000) if printable(chr(p)) != chr(p)}
    controls = {p for p in range(0x110000) if unicodedata.category(chr(p)) in ("Cc", "Cs")}
    assert escaped == controls - {ord("\n"), ord("\t")} | set(DIRECTIONS)


def test_letters_lines_and_tabs_are_as_they_were():
    text = f"{LETTERS}\n\tنص עברית é 👩‍🚀 \\x1b"
    assert printable(text) == text


def test_a_name_stays_on_its_line():
    assert inline("a\nheld out: 0 bits\tb") == r"a\nheld out: 0 bits\tb"


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_no_error_carries_a_control_character(attack):
    error = DataError(f"a file {attack}", attack, f"remove {attack}")
    for text in (str(error), repr(error), str(BpttError(*error.__reduce__()[1]))):
        assert printable(text) == text
    assert error.received == attack  # a program gets what came


class Terminal(io.TextIOWrapper):
    """A stream that says it is one."""

    def isatty(self):
        return True


def encoded(encoding, write, errors="strict", kind=io.TextIOWrapper):
    """What a command that writes leaves behind on stdout and on stderr, in bytes."""
    streams = [
        kind(io.BytesIO(), encoding=encoding, errors=each) for each in (errors, "backslashreplace")
    ]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        with shown_output():
            write()
    finally:
        sys.stdout, sys.stderr = before
    for stream in streams:
        stream.flush()
    return [stream.buffer.getvalue() for stream in streams]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # Python's own in the C locale
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_letters_that_an_encoding_lacks_are_shown_and_told_of_once(encoding, errors):
    def write():
        for _ in range(3):
            print(LETTERS)

    out, err = (each.decode(encoding) for each in encoded(encoding, write, errors))
    assert out.count("\n") == 3
    line = out.splitlines()[0]
    for letter in LETTERS:
        escape = letter.encode("ascii", "backslashreplace").decode()
        try:
            letter.encode(encoding)
        except UnicodeEncodeError:
            assert escape in line
        else:
            assert letter in line
    if "\\" in line:
        assert err.count("\n") == 1
        assert f"not in {encoding}" in err
        assert "PYTHONIOENCODING=utf-8" in err
    else:
        assert err == ""


@pytest.mark.parametrize("errors", ["replace", "ignore", "xmlcharrefreplace", "namereplace"])
def test_a_choice_of_how_letters_are_replaced_is_kept(errors):
    out, err = encoded("ascii", lambda: print("größe"), errors)
    assert out == "größe\n".encode("ascii", errors)
    assert err == b""


@pytest.mark.parametrize("encoding", ENCODINGS[:-1])
def test_letters_on_stderr_alone_are_told_of_as_well(encoding):
    out, err = encoded(encoding, lambda: print(LETTERS, file=sys.stderr))
    assert out == b""
    assert (b"\\" in err) == (b"are shown as escapes" in err)


def test_bytes_of_a_name_go_out_as_they_came_but_never_as_a_control():
    name = bytes(range(0x80, 0x100)).decode("utf-8", "surrogateescape")
    out, _ = encoded("utf-8", lambda: print(name, end=""))
    assert out.endswith(bytes(range(0xA0, 0x100)))
    assert out[:-0x60] == "".join(f"\\udc{p:x}" for p in range(0x80, 0xA0)).encode()
    # Two bytes that are no UTF-8 one by one, and together a control.
    out, _ = encoded("utf-8", lambda: print("\udcc2\udc9b31m", end=""))
    assert b"\xc2\x9b" not in out


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_no_writer_gets_a_control_character_through(attack):
    def write():
        print(attack)
        sys.stdout.write(attack)
        sys.stdout.writelines([attack])
        print(attack, file=sys.stderr)
        Console().print(attack, f"[bold]{attack}")
        Console(stderr=True).print(attack)

    for each in encoded("utf-8", write):
        text = each.decode()
        assert printable(text) == text
        assert text.count(printable(attack)) >= 2


def test_markup_and_names_of_pictures_are_text_to_the_console():
    file = io.StringIO()
    console = Console(file=file, width=80)
    table = Table("[red]head", "[/]")
    table.add_row("[bold]x[/]", "[/nothing]")
    console.print("[bold]not bold[/] [/wrong] :smile:", table)
    for words in ("[bold]not bold[/] [/wrong] :smile:", "[red]head", "[bold]x[/]", "[/nothing]"):
        assert words in file.getvalue()
    assert plain("[/]\x1b").plain == "[/]\\x1b"


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_on_a_terminal_styles_are_the_consoles_own(attack):
    """The same text without the attack, and the attack written out, need the same controls."""

    def controls(text):
        file = io.StringIO()
        console = Console(file=file, width=200, force_terminal=True, color_system="truecolor")
        table = Table(text, title=text)
        table.add_row(text, plain(text, "red"))
        console.print(text, style="bold")
        console.print(table)
        return file.getvalue()

    assert controls(attack) == controls(printable(attack))
    assert "\x1b[1m" in controls("x")


def test_what_is_written_while_a_bar_runs_is_escaped(monkeypatch):
    """rich puts streams of its own in place of stdout and stderr, which obey colours and links."""
    from rich.progress import Progress

    monkeypatch.setenv("TERM", "xterm")

    def write():
        with Progress(console=Console()) as progress:
            progress.add_task("\x1b]0;a\x07", total=1)
            assert not isinstance(unescaped(sys.stdout), Shown)
            print("\x1b[31mred \x1b]8;;http://a\x1b\\link")
            print("\x1b[31mred", file=sys.stderr)
        with Console().status("busy"):
            print("\x1b[32mgreen")

    out, err = encoded("utf-8", write, kind=Terminal)
    assert rb"\x1b[31mred \x1b]8;;http://a\x1b\link" in out
    assert out.count(rb"\x1b[31mred") == 2
    assert rb"\x1b[32mgreen" in out
    assert b"\x1b]" not in out
    assert b"\x07" not in out + err


def test_the_streams_are_afterwards_what_they_were():
    before = sys.stdout, sys.stderr
    with shown_output():
        assert isinstance(sys.stdout, Shown)
        with shown_output():  # a command inside a command escapes once
            assert not isinstance(sys.stdout.unescaped, Shown)
        assert unescaped(sys.stdout) is before[0]
    assert (sys.stdout, sys.stderr) == before

    def failing():
        with shown_output():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (sys.stdout, sys.stderr) == before


def test_closed_streams_are_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with shown_output():
        print("nobody reads this")
        sys.stdout.flush()
    assert sys.stdout is None


def test_a_console_of_somebody_else_shows_names_without_controls():
    """Tables and lines are made of plain texts, whatever console prints them."""
    file = io.StringIO()
    RichConsole(file=file, width=60).print(plain("[red]a\x1b]0;x\x07"))
    assert file.getvalue() == "[red]a\\x1b]0;x\\x07\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    "place",
    [
        lambda v: v,
        lambda v: [1, v],
        lambda v: (v, "a"),
        lambda v: {"a": {"b": [{"c": v}]}, "d": 1.5, "e": None, "f": True},
    ],
)
def test_json_has_no_word_for_what_is_not_finite(place, value):
    def no(word):
        raise AssertionError(word)

    for options in ({}, {"indent": 2}):
        read = json.loads(as_json(place(value), **options), parse_constant=no)
        assert read == json.loads(json.dumps(place(None)))


def test_json_of_finite_numbers_is_as_it_was():
    document = {"a": [1, 2.5, "ß\x1b\x7f"], "b": None, "c": (1e308, -0.0)}
    assert as_json(document) == json.dumps(document)
    assert printable(as_json(document)) == as_json(document)


@pytest.mark.parametrize("width", [20, 60, 200])
def test_no_word_of_a_table_is_cut(width):
    """A name that is typed after the table stands in it whole, on one line, however narrow it is."""
    from rich.table import Table

    file = io.StringIO()
    table = Table("run", "what it is", "score", box=None)
    name = "runs/" + "a-long-name-" * 5
    table.add_row(name, "the first of several that were trained", "1.234")
    Console(file=file, width=width).print(table)
    shown = file.getvalue()
    assert name in shown
    assert "…" not in shown
    assert {"the", "first", "of", "several", "that", "were", "trained"} <= set(shown.split())
    if width == 200:
        assert "the first of several that were trained" in shown


def test_pieces_of_work_are_told_now_and_then_where_there_is_no_terminal(monkeypatch):
    from bptt.shown import console

    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def write():
        with console.Count("jobs", 8) as count:
            for _ in range(8):
                now[0] += 12.0
                count.advance("[red]\x1b")

    out, err = encoded("utf-8", write)
    assert out == b""
    assert err.decode() == (
        "3 of 8 jobs, 1:00 left, [red]\\x1b\n6 of 8 jobs, 0:24 left, [red]\\x1b\n"
    )


def test_pieces_of_work_are_a_bar_with_the_time_left_from_60_columns_on(monkeypatch):
    from bptt.shown import console

    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")

    def write():
        with console.Count("jobs", 8) as count:
            now[0] += 40.0
            count.advance("a long word on what it was that was done, and how")

    err = encoded("utf-8", write, kind=Terminal)[1].decode()
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]", err)]
    assert any("1 of 8 jobs, 4:40 left" in line for line in lines)
    assert max(map(len, lines)) <= 60
    assert "…" not in err
