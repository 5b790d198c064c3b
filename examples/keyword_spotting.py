"""Keyword spotting on recorded speech, down to C: which of ten digits was said, or another word.

python examples/keyword_spotting.py [SOUNDS]

SOUNDS holds two Italian voices that Debian packs for telephone exchanges, ``it_IT_f_Menardi`` and
``it_IT_m_Carlo``; default ``/usr/share/asterisk/sounds``:

    apt-get install asterisk-prompt-it-menardi-wav asterisk-core-sounds-it-wav

Each voice says each word once. So this is a very small set: one recording of each digit to learn from,
made many by changing speed, loudness and place and adding noise; what is unseen is the *other speaker*,
of another sex, recorded elsewhere. It is no product; everything on the way to one is here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bptt

RATE, FRAME, HOP, BANDS, STEPS = 8000, 256, 128, 20, 64  # 64 steps of 16 ms: one second
DIGITS, OTHER = 10, 10
UPDATES, BATCH = 350, 64


def clips(folder: Path) -> list[tuple[np.ndarray, int]]:
    """Every spoken digit and other short word of one voice, with its label."""
    found = []
    for path in sorted((folder / "digits").glob("*.wav")):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        loud = np.flatnonzero(np.abs(samples) > 0.02)
        samples = samples[max(0, loud[0] - 400) : loud[-1] + 400]
        word = path.stem
        digit = int(word) if word.isdigit() and int(word) < DIGITS else None
        if digit is not None or (word.isalpha() and len(samples) < RATE):
            found.append((samples, OTHER if digit is None else digit))
    return found


def mel_filters() -> np.ndarray:
    """Triangles evenly spaced on the mel scale, ``(BANDS, FRAME / 2 + 1)``."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(100, top, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FRAME, 1 / RATE)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(up, down))


FILTERS, WINDOW = mel_filters(), np.hanning(FRAME)


def features(samples: np.ndarray) -> np.ndarray:
    """Logarithm of the energy in each mel band, less its mean over the clip, ``(STEPS, BANDS)``."""
    padded = np.zeros(HOP * (STEPS - 1) + FRAME)
    padded[: len(samples)] = samples[: len(padded)]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    energy = np.abs(np.fft.rfft(frames * WINDOW)) ** 2 @ FILTERS.T
    logs = np.log(energy + 1e-3)
    return (logs - logs.mean(0)) / 2


def varied(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The clip faster or slower (and so higher or lower), elsewhere in its second, with noise."""
    speed = np.exp(random.uniform(-0.35, 0.35))
    at = np.arange(0, len(samples) - 1, speed)
    moved = np.interp(at, np.arange(len(samples)), samples) * np.exp(random.normal(0, 0.5))
    room = max(1, HOP * (STEPS - 1) + FRAME - len(moved))
    moved = np.concatenate([np.zeros(random.integers(room)), moved])
    return moved + random.normal(0, 10 ** random.uniform(-4, -2), len(moved))


class Spotter(nn.Module):
    """A GRU over the frames; its logits after the last frame are the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = bptt.nn.GRU(BANDS, 48)
        self.head = nn.Linear(48, DIGITS + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at every frame, ``(T, B, 11)``."""
        return self.head(self.gru(x)[0])


def batch(voice, random, count=BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Varied clips of all labels alike: frames ``(T, B, BANDS)`` and labels."""
    by_label = [[c for c, label in voice if label == wanted] for wanted in range(DIGITS + 1)]
    labels = random.integers(DIGITS + 1, size=count)
    chosen = [by_label[n][random.integers(len(by_label[n]))] for n in labels]
    frames = np.stack([features(varied(clip, random)) for clip in chosen], 1)
    return torch.from_numpy(frames).float(), torch.from_numpy(labels)


def right(model, voice) -> tuple[float, float]:
    """Share of the digits, and of the other words, that are named rightly, as they were recorded."""
    x = torch.from_numpy(np.stack([features(clip) for clip, _ in voice], 1)).float()
    labels = torch.tensor([label for _, label in voice])
    with torch.no_grad():
        hit = (model(x)[-1].argmax(-1) == labels).double()
    return float(hit[labels < OTHER].mean()), float(hit[labels == OTHER].mean())


def main(sounds: Path) -> None:
    """Train on one voice, judge on both, export, compile, compare."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    seen, unseen = clips(sounds / "it_IT_f_Menardi"), clips(sounds / "it_IT_m_Carlo")
    if not (seen and unseen):
        sys.exit(
            f"no recordings of two voices in {sounds}: apt-get install "
            "asterisk-prompt-it-menardi-wav asterisk-core-sounds-it-wav, or name their folder"
        )
    print(f"{len(seen)} recordings to learn from, {len(unseen)} of a speaker never heard")
    model = Spotter()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        x, labels = batch(seen, random)
        optimizer.zero_grad()
        # Scored over the last quarter of the second: the answer must stand once the word is over.
        logits = model(x)[-STEPS // 4 :]
        nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(STEPS // 4)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    for name, voice in (("the speaker it learned from", seen), ("the other speaker", unseen)):
        digits, others = right(model, voice)
        print(f"{name}: {digits:.0%} of the digits, {others:.0%} of the other words")

    x, _ = batch(seen, random, count=20)
    for precision in ("float32", "int8"):
        more = {"calibration": x} if precision == "int8" else {}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "c"
            export = bptt.export_c(
                model, x[:, :1], out, name="spotter", precision=precision, **more
            )
            header = str(export.files["spotter.h"])
            size = next(line.strip(" *") for line in header.splitlines() if "flash" in line)
            if shutil.which("make") is None:
                print("no make here: the C code was written, not compiled")
                continue
            done = subprocess.run(["make", "run"], cwd=out, capture_output=True, text=True)
        lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
        verdict = "agrees with Python" if done.returncode == 0 else "DIFFERS"
        print(f"C, {precision}: {verdict} ({lines[-1]})\n  {' '.join(size.split())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/asterisk/sounds"))
