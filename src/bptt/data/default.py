"""The text that is there without a download: the language reference that CPython carries.

``pydoc_data.topics`` is what ``help("assert")`` prints: about 80 topics of English prose, grammar
and examples, 460,000 to 510,000 characters. The topics stand in the order of their names, a blank
line between two, as one document: they are chapters of one book and short, and a reset at each
would hide what a state carried over long distances is worth.

Limits: the text is another in each version of Python, so scores compare within one version only.
"""

from __future__ import annotations

from bptt.errors import DataError


def default_text() -> str:
    r"""The topics of CPython's documentation, joined with blank lines in the order of their names.

    Returns:
        The text, lines ended by ``\n``.

    Raises:
        DataError: this Python came without the topics.

    Cost: 0.5 MB; a few milliseconds.

    Example:
        >>> default_text().splitlines()[0]
        'The "assert" statement'
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "the text pydoc_data.topics, part of CPython's standard library",
            "a Python without it",
            "name a text file, or install the whole standard library",
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))
