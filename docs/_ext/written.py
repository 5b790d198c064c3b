"""Formulas of the docstrings, which are written for a terminal, as LaTeX for a page; only Python needed.

``h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}`` reads well in ``help()``. On a page it is set. A formula is a
run of signs, numbers, functions and single letters with their marks that has one thing no sentence has:
an index, ⊙, ∂, ‖, Σ or √. What stands in backquotes or after a prompt is left alone.
"""

from __future__ import annotations

import re

FUNCTIONS = ("softmax", "argmin", "tanh", "diag", "abs", "exp", "log", "max", "min", "Re")
LETTER = r"(?:[A-Za-zα-ωΑ-Ωℓŷāē][\u0303\u0304]?)"
INDEX = r"(?:_(?:\{[^{}]+\}|[A-Za-z0-9]{1,3}(?![A-Za-z0-9_])))"
RAISED = r"(?:[ᵀ²³⁰½ᶻʸ]|'(?![A-Za-z])|\^(?:\{[^{}]+\}|[½\w*]))"
ENTRY = r"(?:\[[A-Za-z0-9_{}+\-, ]+\])"
ATOM = rf"(?:∂?(?:d(?!o(?! =)))?[δθ]?{LETTER}{INDEX}?{RAISED}*{ENTRY}?(?![A-Za-z_]))"
NUMBER = r"(?:\d+(?:\.\d+)?[½²]?|½)"
SIGN = rf"(?:[=+\-−/·⊙‖√ΣΠ∏()≤≥>←…⋯∞|]|[∏ΣΠ]{INDEX}|[ᵀ²³½]|\^(?:\{{[^{{}}]+\}}|[½\w]))"
CALL = rf"(?:(?:{'|'.join(FUNCTIONS)})²?(?=[ ()]))"
PIECE = rf"(?:{CALL}|{ATOM}|{NUMBER}|{SIGN})"
RUN = re.compile(rf"(?<![\w`.:∂‖^]){PIECE}(?: ?{PIECE})*")
SURE = re.compile(r"[A-Za-zα-ωΑ-Ωℓ\u0304][²]?_[\w{]|[⊙∂‖√]|[ΣΠ∏][ _]|ᵀ")
# Beside one of these a run is a part of something that is not understood: all of it stays as it was.
OUTSIDE = re.compile(r"[\w∂‖^⌈⌉\[\]{}²½ᵀ/·⊙√_\u0303\u0304]")
FIELD = re.compile(r"^(\s*[\w*][\w, *]*(?:\([^)]*\))?:)(?= |$)")
LEFT_ALONE = re.compile(r"(``.*?``|:[\w:]+:`[^`]*`|`[^`]*`_*)", re.S)

PLAIN = {
    "⊙": r"\odot ", "·": r"\cdot ", "∂": r"\partial ", "Σ": r"\sum ", "Π": r"\prod ", "∏": r"\prod ",
    "≤": r"\le ", "≥": r"\ge ", "←": r"\leftarrow ", "…": r"\ldots ", "⋯": r"\cdots ", "−": "-",
    "½": r"\tfrac{1}{2}", "ℓ": r"\ell ", "∞": r"\infty ", "|": r"\mid ", "ŷ": r"\hat{y}", "ā": r"\bar{a}",
    "\u0304": "",
}  # fmt: skip
MARKS = {"ᵀ": r"\top", "²": "2", "³": "3", "⁰": "0", "ᶻ": "z", "ʸ": "y", "'": r"\prime"}


def latex(run: str) -> str:
    """A run as LaTeX.

    Example:
        >>> latex("h_t = tanh(W_ih x_t + b)")
        'h_{t} = \\\\tanh (W_{ih} x_{t} + b)'
    """
    text = re.sub(r"(.)\u0304", r"\\bar{\1}", run)
    text = re.sub(r"(.)\u0303", r"\\tilde{\1}", text)
    text = re.sub(r"√\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"√(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\^½", r"^{½}", text)
    text = re.sub(r"_([A-Za-z0-9]{2,3})", _long_index, text)
    text = re.sub(r"_([A-Za-z0-9])", r"_{\1}", text)
    text = re.sub(r"\^([\w*])", r"^{\1}", text)
    # Marks that follow each other are one exponent.
    text = re.sub("[ᵀ²³⁰ᶻʸ']+", lambda m: "^{" + " ".join(MARKS[c] for c in m[0]) + "}", text)
    text = re.sub(rf"(?<![\\A-Za-z{{])({'|'.join(FUNCTIONS)})(?![A-Za-z])", _function, text)
    parts = text.split("‖")  # they come in pairs
    text = "".join(p + (r"\lVert " if n % 2 == 0 else r"\rVert ") for n, p in enumerate(parts[:-1]))
    text += parts[-1]
    return "".join(PLAIN.get(c, c) for c in text).strip()


def _long_index(found: re.Match[str]) -> str:
    word = found[1]
    return rf"_{{\mathrm{{{word}}}}}" if word in ("max", "min", "log") else f"_{{{word}}}"


def _function(found: re.Match[str]) -> str:
    name = found[1]
    return (
        f"\\{name} "
        if name in ("tanh", "exp", "log", "max", "min")
        else rf"\operatorname{{{name}}}"
    )


def with_math(text: str) -> str:
    """A piece of reStructuredText whose formulas are in the role ``math``.

    Example:
        >>> with_math("The state is h_t = a_t ⊙ h_{t-1}, a sum.")
        'The state is \\\\ :math:`h_{t} = a_{t} \\\\odot  h_{t-1}`\\\\ , a sum.'
    """
    field = FIELD.match(text)  # an argument's name is a name
    if field:
        return field[1] + with_math(text[field.end() :])
    pieces = LEFT_ALONE.split(text)
    return "".join(p if n % 2 else RUN.sub(_role, p) for n, p in enumerate(pieces))


def _role(found: re.Match[str]) -> str:
    run, after = found[0], ""
    # A word of one letter belongs to the sentence, and so does a bracket that is not closed here.
    word = re.match(r"[aAI] (?=[^=+\-⊙/·≤≥])", run)
    lead = word[0] if word else ""
    run = run[len(lead) :]
    left = found.string[found.start() - 1 : found.start()]
    if OUTSIDE.search(left) and " = " in run:  # bias(K) = …: what is on the right is a formula
        before, _, run = run.partition(" = ")
        lead, left = f"{lead}{before} = ", ""
    while run and (run.count("(") != run.count(")") or run[-1] in " =+-−/·⊙"):
        if run.count("(") > run.count(")") and run.startswith("("):
            lead, run = lead + "(", run[1:]
        else:
            run, after = run[:-1], run[-1] + after
    cut = bool(re.search(r"[\w∂(]", after))
    word = re.search(r"(?<![=+\-−/·⊙≤≥←|]) [aAI]$", run)
    if word and not after:
        run, after = run[: word.start()], word[0]
    beside = left + found.string[found.end() : found.end() + 1]
    if (
        cut
        or run[:1] in tuple("=+/·⊙≤≥←>|")
        or OUTSIDE.search(beside)
        or not SURE.search(run)
        or run.count("‖") % 2
    ):
        return found[0]
    # A role stands between spaces or signs of its own.
    return f"{lead}\\ :math:`{latex(run)}`\\ {after}"


def lines_with_math(lines: list[str]) -> list[str]:
    """The lines of a docstring; prompts, what follows them, and indented programs are left alone."""
    found: list[str] = []
    program, literal, open_code = False, None, False
    for line in lines:
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if literal is not None and bare and indent <= literal:
            literal = None
        program = bool(bare) and (program or bare.startswith(">>>"))
        # Code in backquotes may go on in the next line.
        odd = line.count("``") % 2 == 1
        plain = not (program or odd or open_code or literal is not None)
        found.append(with_math(line) if plain else line)
        open_code = bool(bare) and open_code != odd
        if bare.endswith("::") and not bare.startswith(".. "):
            literal = indent
    return found
