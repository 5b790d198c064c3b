"""The text of a run changed after training: by a letter anywhere, cut, lengthened, its files swapped.

Whatever reads that text again must refuse it in one line and change nothing; or, where the change leaves
every token as it was (the same words written anew, other line ends where those are read alike), answer
exactly what it answered before.
"""

import random
import shutil
from pathlib import Path

from torture.asked import COMMANDS, ask, begin, contents

WORDS = ("rose", "thorn", "is", "red", "the", "a", "of", "leaf", "falls", "and", "no", "bud")
# How a run reads its text: words of the command line, and how many files.
RUNS = {
    "characters": ([], 1),
    "bytes": (["--bytes"], 1),
    "documents": (["--documents", r"\n\n"], 2),
    "three files": ([], 3),
    "unix": (["--line-ends", "unix"], 2),
    "random chunks": (["--partition", "random"], 1),
}
KINDS = (
    "letter", "letter", "strange letter", "end", "insert", "remove", "append", "cut", "line ends",
    "swap", "empty", "gone", "anew", "moved",
)  # fmt: skip


def torture(folder: Path, *, rounds: int, seed: int) -> str:
    """Change a text so many times; return what was done."""
    chance = random.Random(seed)
    runs = {name: _Run(folder / name.replace(" ", "-"), name, chance) for name in RUNS}
    count = {"refused": 0, "the same": 0, "under another name": 0}
    for number in range(rounds):
        name, kind = chance.choice(list(runs)), KINDS[number % len(KINDS)]
        count[runs[name].change(kind, chance.choice(list(COMMANDS)), chance)] += 1
    counted = ", ".join(f"{number} {what}" for what, number in count.items())
    return f"{rounds} changed texts: {counted}"


class _Run:
    """A run, its text, and what the commands say of it while that is as it was."""

    def __init__(self, folder, name, chance):
        folder.mkdir()
        self.folder, self.run = folder, folder / "run"
        words, files = RUNS[name]
        self.unix, self.bytes = "unix" in words, "--bytes" in words
        self.paths = [folder / f"text-{n}.txt" for n in range(files)]
        self.texts = [_text(chance, 3600 // files) for _ in self.paths]
        self.write(self.texts)
        begin([*map(str, self.paths), "--out", str(self.run), *words])
        self.answers = {}
        for command in COMMANDS:
            with _Copy(self.run) as run:
                status, self.answers[command], said = ask(command, str(run), folder / "out")
            assert status == 0, said

    def write(self, texts):
        for path, text in zip(self.paths, texts, strict=True):
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(text, encoding="utf-8", newline="")

    def change(self, kind, command, chance):
        """Change the text, ask, and put it back; return what came of it."""
        texts = _changed(kind, self.texts, chance)
        same = self.read(texts) == self.read(self.texts)
        what = f"{self.folder.name}, {kind}, {command}"
        self.write(texts)
        with _Copy(self.run) as run:
            before, moved = contents(run), ()
            if kind == "moved":
                moved = self.elsewhere(self.texts)
            status, answer, said = ask(command, str(run), self.folder / "out", moved)
            if same or moved:
                assert status == 0, f"{what}: {said}"
                assert answer == self.answers[command], what
            else:
                assert status == 2, f"{what}: another text was taken for that of the run"
                assert "the text that" in said, f"{what}: {said}"
                assert contents(run) == before, what
                # The line's own remedy: the text as it was, under another name, is taken.
                moved = self.elsewhere(self.texts)
                status, answer, said = ask(command, str(run), self.folder / "out", moved)
                assert (status, answer) == (0, self.answers[command]), f"{what}: {said}"
        self.write(self.texts)
        return "under another name" if kind == "moved" else "the same" if same else "refused"

    def elsewhere(self, texts):
        """The text under names that no run knows."""
        paths = [self.folder / "elsewhere" / f"other-{n}" for n in range(len(texts))]
        paths[0].parent.mkdir(exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8", newline="")
        return tuple(map(str, paths))

    def read(self, texts):
        """What a model sees of a text: computed here from the letters, without the package."""
        if any(text is None for text in texts):
            return None
        if self.unix:
            texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        if self.bytes:
            return [text.encode() for text in texts]
        known = "".join(self.texts)
        known = set(known[: int(0.9 * len(known))])
        return [[letter if letter in known else None for letter in text] for text in texts]


class _Copy:
    """A copy of a run beside it, so that going on with it leaves the run as it is."""

    def __init__(self, run):
        self.run, self.copy = run, run.with_name("copy")

    def __enter__(self):
        shutil.copytree(self.run, self.copy)
        return self.copy

    def __exit__(self, *_):
        shutil.rmtree(self.copy)


def _text(chance, size):
    """Words, lines and blank lines; at its end a letter that nothing before it has."""
    pieces = []
    while sum(map(len, pieces)) < size:
        pieces += [chance.choice(WORDS), chance.choice((" ", " ", " ", ",", "\n", "\n\n"))]
    return "".join(pieces) + "ß"


def _changed(kind, texts, chance):
    texts = list(texts)
    which = chance.randrange(len(texts))
    text = texts[which]
    place = chance.randrange(len(text) - 1)
    if kind == "letter":
        other = chance.choice([letter for letter in "aeos\n" if letter != text[place]])
        text = text[:place] + other + text[place + 1 :]
    elif kind == "strange letter":
        text = text[:place] + "☃" + text[place + 1 :]
    elif kind == "end":  # in the held-out part: a letter that is unknown either way
        text = text[:-1] + "ü"
    elif kind == "insert":
        text = text[:place] + "e" + text[place:]
    elif kind == "remove":
        text = text[:place] + text[place + 1 :]
    elif kind == "append":
        text += chance.choice(("\n", "e", "the end"))
    elif kind == "cut":
        text = text[: chance.randint(1, len(text) - 1)]
    elif kind == "line ends":
        text = text.replace("\n", chance.choice(("\r\n", "\r")))
    elif kind == "empty":
        text = ""
    elif kind in ("gone", "moved"):
        text = None
    texts[which] = text
    if kind == "swap":
        texts.reverse()
    return texts
