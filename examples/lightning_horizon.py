"""How far back does a Lightning module learn? One callback, and the horizon stands among its metrics.

python examples/lightning_horizon.py        needs the optional part callbacks

The module knows nothing of this package: it adds two marked numbers out of a sequence of forty. Its
gradient begins short and grows until it spans the sequence, while the error falls.
"""

from __future__ import annotations

import csv
import logging
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bptt.integrations import for_lightning
from bptt.tasks import Adding

TASK, EVERY = Adding(40), 48  # steps of a sequence; updates from one measurement to the next


class Adder(lightning.LightningModule):
    """A GRU and a linear layer, as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(TASK.inputs, 32, batch_first=True)
        self.out = nn.Linear(32, 1)

    def training_step(self, batch, _):
        """Squared error of the sum, from the last step."""
        x, total = batch
        loss = nn.functional.mse_loss(self.out(self.gru(x)[0][:, -1]), total)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """Adam, as usual."""
        return torch.optim.Adam(self.parameters(), 0.01)


def main() -> None:
    """Train on 4096 sequences, and print what the callback logged."""
    lightning.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    data = TASK.batch(torch.Generator().manual_seed(1), 4096)
    loader = DataLoader(
        TensorDataset(data.inputs.transpose(0, 1), data.targets[-1]), batch_size=32, shuffle=True
    )
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", logger=logger, log_every_n_steps=1,
            callbacks=[for_lightning(every=EVERY)], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Adder(), loader)
        logger.save()
        with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    for row in rows:
        if row.get("bptt/horizon") and int(row["step"]) % EVERY == 0:
            print(
                f"update {row['step']:>3}: horizon {float(row['bptt/horizon']):.0f} of {TASK.steps}"
            )
    losses = [float(row["loss"]) for row in rows if row.get("loss")]
    before, after = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    print(f"squared error {before:.3f} in the first twenty updates, {after:.4f} in the last twenty")
    print(f"(always saying 1 costs {TASK.chance:.3f})")


if __name__ == "__main__":
    main()
