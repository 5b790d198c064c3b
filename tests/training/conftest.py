"""The text that a module's tests train on."""

import pytest


@pytest.fixture
def text(request, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(request.module.TEXT, encoding="utf-8")
    return path
