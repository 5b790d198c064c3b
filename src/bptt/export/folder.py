"""Files into a new folder, all or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bptt.errors import ArgumentError, RunError


def write_folder(path: str | os.PathLike[str], files: Mapping[str, str | bytes]) -> Path:
    """Write the files into a folder that does not exist yet, or is empty.

    They are written into a temporary folder beside it, which is renamed at the end.

    Args:
        path: of the folder.
        files: texts or bytes by file name.

    Returns:
        The folder.

    Raises:
        ArgumentError: there is something at the path already.
        RunError: it cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as base:
        ...     folder = write_folder(base + "/new", {"a.txt": "hello"})
        ...     (folder / "a.txt").read_text()
        'hello'
    """
    target = Path(path)
    check_free(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        for name, content in files.items():
            data = content.encode("utf-8") if isinstance(content, str) else content
            (temporary / name).write_bytes(data)
        temporary.chmod(0o755)
        # Renaming onto an empty folder replaces it; onto one that someone filled meanwhile, fails.
        os.replace(temporary, target)
    except OSError as error:
        raise RunError(
            f"a folder that can be written at {target}",
            error.strerror or str(error),
            "choose another one with --out",
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise ArgumentError unless nothing, or an empty folder, is at the path."""
    target = Path(path)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArgumentError("a new folder", f"{target}, which is a file", "choose another --out")
    if target.is_dir() and any(target.iterdir()):
        first = sorted(p.name for p in target.iterdir())[0]
        raise ArgumentError(
            "a new or empty folder", f"{target}, which holds {first}", "choose another --out"
        )
