"""A run and its text moved: together or apart, renamed, asked from anywhere, other texts in the way.

Where the text is under the name that was typed, at the place it had, or where it was relative to the run,
every command finds it. Where it is not, the command refuses in one line, and takes it from whoever says
where it is. It never answers of another text that has the same name.
"""

import os
import random
import shutil
from pathlib import Path

from torture.asked import COMMANDS, ask, begin
from torture.changed_texts import WORDS

# Where somebody stood in a project, and what he typed: the files, and the run.
LAYOUTS = {
    "beside": (".", ["text.txt"], "run"),
    "below": (".", ["data/text.txt"], "runs/one"),
    "above": ("work", ["../data/text.txt"], "../runs/one"),
    "two files": ("data", ["text.txt", "more/text.txt"], "../runs/deep/one"),
    "absolute": (".", ["{project}/data/text.txt"], "{project}/runs/one"),
    "within": (".", ["runs/text.txt"], "runs/one"),
}
WAYS = (
    "back", "together", "run away", "both away", "text away", "renamed", "apart", "typed",
)  # fmt: skip


def torture(folder: Path, *, rounds: int, seed: int) -> str:
    """Move so many times; return what was done."""
    chance = random.Random(seed)
    kept = {name: _Project(folder, name, chance) for name in LAYOUTS}
    count = {"found": 0, "named": 0}
    here = Path.cwd()
    try:
        for number in range(rounds):
            project, way = kept[chance.choice(list(kept))], WAYS[number % len(WAYS)]
            count[project.move(folder / "round", way, chance)] += 1
    finally:
        os.chdir(here)
    counted = ", ".join(f"{number} {what}" for what, number in count.items())
    return f"{rounds} moved directories: {counted}"


class _Project:
    """A project kept out of the way, and what the commands say of its run where it was made."""

    def __init__(self, folder, name, chance):
        self.name, self.place, self.kept = name, folder / "home" / name, folder / "kept" / name
        self.start, files, out = LAYOUTS[name]
        self.typed = [file.format(project=self.place) for file in files]
        for below in (self.start, "work", "data/more"):
            (self.place / below).mkdir(parents=True, exist_ok=True)
        os.chdir(self.place / self.start)
        self.files = [
            os.path.relpath(file, self.place) for file in map(os.path.abspath, self.typed)
        ]
        for file in self.files:
            (self.place / file).parent.mkdir(parents=True, exist_ok=True)
            (self.place / file).write_text(_text(chance, 3600 // len(self.files)))
        out = out.format(project=self.place)
        self.run = os.path.relpath(os.path.abspath(out), self.place)
        begin([*self.typed, "--out", out])
        self.answers = {}
        for command in COMMANDS:
            status, self.answers[command], said = ask(command, out, folder / "out")
            assert status == 0, said
        shutil.rmtree(out)  # it went on; each round begins with the run as it was
        begin([*self.typed, "--out", out])
        os.chdir(folder)
        self.kept.parent.mkdir(exist_ok=True)
        shutil.move(self.place, self.kept)

    def move(self, scene, way, chance):
        """Lay the project out anew, ask from somewhere, clear up; return how the text was found."""
        scene.mkdir()
        place = self.place if way in ("back", "run away") else scene / "else" / "where"
        shutil.copytree(self.kept, place)
        run, files = place / self.run, [place / file for file in self.files]
        sure = way in ("back", "together", "run away")
        where = chance.choice((scene, place, place / "work", run, run.parent, Path("/")))
        if way == "typed":  # the text lies where its name, as it was typed, leads from here
            where = scene / "desk" / "a"
            where.mkdir(parents=True)
            sure = not os.path.isabs(self.typed[0])
            if sure:
                files = self.carried(files, [where / name for name in self.typed])
                run = Path(shutil.move(run, scene / "run"))
        elif way in ("run away", "both away"):
            run = Path(shutil.move(run, _made(scene / "far") / "run"))
            where = scene
        elif way in ("text away", "apart", "renamed"):
            new = scene / "texts" if way != "renamed" else files[0].parent
            files = self.carried(files, [_made(new) / f"new-{n}" for n in range(len(files))])
            if way == "apart":
                run, where = Path(shutil.move(run, scene / "gone")), scene
        decoys = self.decoys(scene, where, files, chance)
        os.chdir(where)
        command = chance.choice(list(COMMANDS))
        typed = str(run) if chance.random() < 0.5 else os.path.relpath(run)
        what = f"{self.name}, {way}, {command} from {where}, {typed}, {len(decoys)} in the way"
        status, answer, said = ask(command, typed, scene / "out")
        found = "found"
        if status:
            assert not sure, f"{what}: {said}"
            assert "the text that" in said, f"{what}: {said}"
            names = tuple(str(f) if chance.random() < 0.5 else os.path.relpath(f) for f in files)
            status, answer, said = ask(command, typed, scene / "out", names)
            found = "named"
        assert status == 0, f"{what}: {said}"
        assert answer == self.answers[command], f"{what}: another text was taken for the run's"
        if found == "named" and command == "train":  # and now every command knows the place
            status, _, said = ask("eval", typed, scene / "out")
            assert status == 0, f"{what}, again: {said}"
        os.chdir(scene.parent)
        shutil.rmtree(scene)
        shutil.rmtree(self.place, ignore_errors=True)
        return found

    @staticmethod
    def carried(files, to):
        for file, new in zip(files, to, strict=True):
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, new)
        return to

    def decoys(self, scene, where, files, chance):
        """Other texts under the names of this one, wherever it might be looked for."""
        places = [self.place / file for file in self.files]
        if str(where) != "/":
            places += [where / name for name in self.typed if not os.path.isabs(name)]
        places += [scene / Path(file).name for file in self.files]
        laid = []
        for place in map(Path, map(os.path.abspath, places)):
            inside = place.is_relative_to(scene) or place.is_relative_to(self.place)
            if inside and not place.exists() and place not in files and chance.random() < 0.5:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(_text(chance, chance.choice((5, 700, 3600))))
                laid.append(place)
        return laid


def _text(chance, size):
    pieces = []
    while sum(map(len, pieces)) < size:
        pieces += [chance.choice(WORDS), chance.choice((" ", " ", ",", "\n"))]
    return "".join(pieces)


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
