"""The terminal's styled output: rich, where a text is a text and never a command."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType, RenderHook
from rich.file_proxy import FileProxy
from rich.segment import Segment
from rich.text import Text

from bptt.shown.text import Shown, printable, unescaped


class Console(RichConsole):
    """A console that shows every text as it is: no markup in it is obeyed, no name becomes a picture,
    and control characters are escaped, while the styles and the cursor are the console's own.

    Args:
        stderr: write there; default stdout.
        options: of ``rich.console.Console``.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> Console(file=file, width=60).print("[bold]\x1b[2J :smile:")
        >>> file.getvalue()
        '[bold]\\\\x1b[2J :smile:\\n'
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = unescaped(sys.stderr if stderr else sys.stdout)
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**{"file": stream, **plain, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich draws it; escaped before it is laid out, so that columns stay columns."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is written, piece by piece; here nothing passes that came by another way."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def push_render_hook(self, hook: RenderHook) -> None:
        """A bar begins to run: rich has put streams of its own in place of stdout and stderr, which
        obey the colours and links of what is written to them. Nothing of that reaches them."""
        super().push_render_hook(hook)
        sys.stdout, sys.stderr = (
            cast(TextIO, Shown(cast(TextIO, stream))) if isinstance(stream, FileProxy) else stream
            for stream in (sys.stdout, sys.stderr)
        )


def plain(text: object, style: str = "") -> Text:
    """A text for a table or a line of any console, in one style.

    Example:
        >>> plain("[red]", "bold").plain
        '[red]'
    """
    return Text(printable(text), style=style)
