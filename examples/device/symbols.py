"""Write symbols.h for blink.c: the characters of a run's vocabulary, by token.

python symbols.py RUN FOLDER [int8]
"""

import sys
from pathlib import Path

from bptt.training.restore import load_model


def main(run: str, folder: str, precision: str = "float32") -> None:
    """Characters beyond ASCII are shown as '?'; a program with another screen may do better."""
    _, vocabulary, _ = load_model(run)
    signs = [vocabulary.decode([token]) for token in range(vocabulary.size)]
    codes = ", ".join(str(ord(s) if len(s) == 1 and s.isascii() else ord("?")) for s in signs)
    kind = "int8_t" if precision == "int8" else "float"
    Path(folder, "symbols.h").write_text(
        f"#define SPACE {signs.index(' ')}U\n#define OUTPUT_TYPE {kind}\n"
        f"static const char TEXT[{len(signs)}] = {{{codes}}};\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
