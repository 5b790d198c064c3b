"""The reader's own marimo configuration is for the reader's own notebooks: the lab looks the same."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from marimo._config.config import DEFAULT_CONFIG

from lab_driver import PYTHON, start

pytestmark = pytest.mark.slow  # servers of their own

HOSTILE = """
[display]
theme = "dark"
custom_css = ["evil.css"]
locale = "de"
[runtime]
dotenv = ["evil.env"]
pythonpath = ["evil"]
auto_instantiate = false
[server]
follow_symlink = true
[ai.open_ai]
api_key = "evil-key"
base_url = "http://192.0.2.1/"
[experimental]
isolate_apps = true
"""
SHOW = """
import sys
from bptt.lab.server import Notebooks
Notebooks("", 5)
from marimo._config.manager import get_default_config_manager
import json
print(json.dumps(get_default_config_manager(current_path=None).get_config(hide_secrets=False)))
"""


def environment(home, config):
    # marimo writes its settings in the order of a set.
    return {
        **os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(config), "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p),
    }  # fmt: skip


def served(folder, home, config):
    """What marimo's page is told, and the files made."""
    child, address = start("--port", "0", cwd=folder, env=environment(home, config))
    try:
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        connection.request("GET", "/contraction/")
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read().decode()
        for name, status in (("evil.example", 400), ("localhost", 200)):
            connection.request("GET", "/", headers={"Host": name})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()
    finally:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    # A token for each start of the server is all that may differ.
    return re.sub(r'"?(server_?token|data-token|session_?id)"?[=:]\s*"[^"]*"', "", text, flags=re.I)


def test_a_hostile_configuration_changes_nothing(tmp_path):
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    for folder in (plain, hostile):
        (folder / "home").mkdir(parents=True)
        (folder / "work").mkdir()
    (hostile / "home/.marimo.toml").write_text(HOSTILE)
    (hostile / "config/marimo").mkdir(parents=True)
    (hostile / "config/marimo/marimo.toml").write_text(HOSTILE)
    (hostile / "work/.marimo.toml").write_text(HOSTILE)
    (hostile / "work/evil.css").write_text(":root { color: red }")
    (hostile / "work/.env").write_text("EVIL=1\n")
    marimo = re.sub(r"^\[", "[tool.marimo.", HOSTILE, flags=re.M)
    (hostile / "work/pyproject.toml").write_text(marimo)

    def seen(folder):
        return served(folder / "work", folder / "home", folder / "config")

    text = seen(plain)
    assert '"theme": "system"' in text or '"theme":"system"' in text
    assert seen(hostile) == text
    # It made no configuration file for a reader who had none.
    assert not (plain / "config").exists()
    assert not list((plain / "home").rglob("*marimo.toml"))


def test_the_whole_configuration_is_marimos_default(tmp_path):
    (tmp_path / ".marimo.toml").write_text(HOSTILE)
    (tmp_path / ".env").write_text("EVIL=1\n")
    out = subprocess.run(
        [*PYTHON, "-c", SHOW], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env=environment(tmp_path, tmp_path / "config"),
    ).stdout  # fmt: skip
    assert json.loads(out) == json.loads(json.dumps(DEFAULT_CONFIG))
