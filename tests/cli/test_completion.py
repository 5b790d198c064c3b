"""What completes the command in a shell: made of the options there are, and run by the shell itself."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bptt.cli import COMMANDS, main
from bptt.cli.parse import SHELLS, completion

BASH = shutil.which("bash")


def complete(tmp_path, *words):
    """What bash offers for the last of the words."""
    script = tmp_path / "bptt.bash"
    script.write_text(completion("bash", COMMANDS))
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _bptt; '
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        [str(BASH), "-c", code, "bash", str(script), "bptt", *words],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_words_and_files(tmp_path) -> None:
    assert complete(tmp_path, "") == set(COMMANDS)
    assert complete(tmp_path, "tr") == {"train"}
    assert complete(tmp_path, "train", "--log") == {"--log-every", "--log-to"}
    assert complete(tmp_path, "train", "--cell", "") == {
        "rnn",
        "rnn-relu",
        "gru",
        "lstm",
        "mingru",
        "lru",
    }
    assert complete(tmp_path, "bench", "--cells", "l") == {"lstm"}
    (tmp_path / "verse.txt").write_text("a")
    assert complete(tmp_path, "train", "ver") == {"verse.txt"}
    assert complete(tmp_path, "train", "--config", "ver") == {"verse.txt"}
    assert "--run" not in complete(tmp_path, "eval", "--")  # it is taken by its place


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_every_script(shell, capsys) -> None:
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert main([f"--completion={shell}"]) == 0
    assert capsys.readouterr().out == script
    for name in COMMANDS:
        assert f" {name}" in script
    mark = "-l " if shell == "fish" else "--"
    for option in (
        "eval-every",
        "on-nonfinite",
        "log-to",
        "config",
        "curricula",
        "sort",
        "csv",
        "json",
    ):
        assert f"{mark}{option}" in script


@pytest.mark.parametrize("words", [["--completion"], ["--completion", "tcsh"], ["--completion="]])
def test_another_shell(words, capsys) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "--completion with one of bash, zsh, fish" in err
    assert len(err.splitlines()) == 1


def test_the_scripts_are_no_nonsense_to_their_shells(tmp_path) -> None:
    for shell in SHELLS:
        program = shutil.which(shell)
        if program is None:
            continue
        script = tmp_path / f"bptt.{shell}"
        script.write_text(completion(shell, COMMANDS))
        check = subprocess.run([program, "-n", str(script)], capture_output=True, text=True)
        assert (check.returncode, check.stderr) == (0, "")
