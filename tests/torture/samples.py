"""Sound inputs of every reader, before they are changed."""

from __future__ import annotations

from typing import Any

import torch

from bptt.training.checkpoint import Checkpoint
from bptt.training.settings import Settings
from bptt.training.sizes import fitted

TEXT = "Größe ☃ is not\r\nthe size of memory.\n\nA second document 😀 follows.\n"
CONFIG = fitted(
    Settings(files=("a.txt", "b.txt"), steps=3, hidden=4, window=128, regularise="omega:1"), 10**6
).to_toml()
SETTINGS = Settings()
SETTINGS_VALUES = (
    0,
    1,
    2,
    64,
    256,
    0.5,
    1.0,
    True,
    False,
    "gru",
    "lstm",
    "none",
    "norm:1",
    "np",
    [],
)
METRICS: list[dict[str, Any]] = [
    {
        "step": n, "epoch": n / 9, "seconds": 0.5 * n, "loss": 3.0 / n, "bits": 4.0 / n,
        "perplexity": 9.0,
        "norm": 2.0, "clipped": 1.0, "lr": 0.003, "tokens": 64 * n, "tokens_per_second": 128.0,
        "horizon": 7, "decay": 0.8, "verdict": "vanishing", "bias": 0.2,
        "spectrum": {"truncations": [1, 2, 4], "bias": [0.5, 0.2, 0.1]},
    }
    for n in range(1, 5)
] + [{"step": 4, "valid": {"tokens": 9, "nats": 1.0, "bits": 1.4, "perplexity": 2.7}}]  # fmt: skip
SAVED = Checkpoint(
    {"weight": torch.arange(6.0).view(2, 3)},
    {"random": torch.get_rng_state()[:64], "carry.0": torch.zeros(1, 2)},
    {"step": 3, "best_step": 3, "best_nats": 1.0, "data": {"tokens": 9}, "tally": {"steps": 1}},
)
RECORD: dict[str, Any] = {
    "job": {
        "task": "copy", "length": 10, "cell": "gru", "start": "default", "clip": "norm:1",
        "regularise": "none", "gradient": "full", "curriculum": "none", "seed": 0,
        "budget": {"hidden": 8, "batch": 4, "updates": 20, "lr": 0.01, "every": 5,
                   "to_the_end": False, "folder": None},
    },
    "score": 0.5, "curve": [[5, 0.4], [10, 0.5]], "solved": False, "updates": 20, "skipped": 0,
    "clipped": 0.1, "error": None, "seconds": 1.5,
}  # fmt: skip
CLAIMS = [
    {"id": id, "source": "a book", "statement": "so it is", "published": "1", "measured": "2",
     "where": "here", "verdict": "holds", "instead": "", "seconds": 1.0, "figures": {"a": [1, 2.5]}}
    for id in ("A1", "A3")
]  # fmt: skip
DIGITS = b"".join(b"%d," % (n % 17) * 64 + b"%d\n" % (n % 10) for n in range(20))
CO2 = b"date,co2\n" + b"".join(b"%d,%d.5\n" % (n, 300 + n % 7) for n in range(60))
VOWELS = b"@problem made\n@data\n" + b"1,2,3:4,5,7:a\n2,3:1,4:b\n5,6,7,8:1,2,0,4:a\n"
COMMANDS = {
    "train": [
        "@text.txt",
        "--steps",
        "1",
        "--hidden",
        "3",
        "--batch",
        "2",
        "--k",
        "4",
        "--out",
        "@new",
    ],
    "sample": ["@run", "--prompt", "a", "--length", "3"],
    "eval": ["@run", "@text.txt"],
    "diagnose": ["@run", "@text.txt", "--steps", "4", "--lanes", "2"],
    "compare": [
        "copy",
        "--cells",
        "gru",
        "--lengths",
        "5",
        "--seeds",
        "1",
        "--out",
        "@results.jsonl",
    ],
    "bench": ["--cells", "gru", "--hidden", "4", "--modes", "train", "--seconds", "0.01"],
    "export": ["@run", "--to", "c", "--out", "@c"],
    "claims": ["A1", "--known", "@claims.json", "--list"],
    "data": ["fetch", "shakespeare", "--out", "@data"],
}
OPTIONS = (
    "--hidden", "--batch", "--k", "--layers", "--steps", "--minutes", "--epochs", "--lr",
    "--clip", "--init", "--regularise", "--gradient", "--window", "--states", "--chunk",
    "--threads", "--seed", "--out", "--cell", "--model", "--context", "--order", "--embedding",
    "--dropout", "--valid-fraction", "--documents", "--bytes", "--partition", "--resume",
    "--json", "--prompt", "--length", "--temperature", "--top-k", "--lanes", "--html", "--cells",
    "--lengths", "--seeds", "--workers", "--figure", "--to", "--name", "--precision",
    "--calibration", "--measure", "--known", "--jobs", "--markdown", "--data", "--help", "--keep",
    "--bias", "--text", "--line-ends", "--raw",
)  # fmt: skip
