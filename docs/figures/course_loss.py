"""What each character of "hello world!" costs, before and after training."""

import torch
from panels import panel

from bptt.data import CharVocabulary
from bptt.models import LanguageModel, token_loss

TEXT = "hello world! " * 5
SHOWN = 26


def draw():
    """Bars of −log p, one a character; the mean is the loss."""
    vocabulary = CharVocabulary.from_text(TEXT)
    tokens = torch.as_tensor(vocabulary.encode(TEXT)).long()
    x, y = tokens[:-1, None], tokens[1:, None]
    torch.manual_seed(1)
    model = LanguageModel(vocabulary.size, "rnn", 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = {}
    for update in range(61):
        logits = model(x)[0]
        if update in (0, 20, 60):
            each = torch.nn.functional.cross_entropy(logits[:, 0], y[:, 0], reduction="none")
            losses[update] = each.detach()
        optimizer.zero_grad()
        token_loss(logits, y).backward()
        optimizer.step()
    made, axes = panel()
    for update, look in ((0, ":"), (20, "--"), (60, "-")):
        axes.step(range(SHOWN), losses[update][:SHOWN], look, where="mid", label=f"update {update}")
    axes.set_xticks(range(SHOWN), list(TEXT[1 : SHOWN + 1].replace(" ", "␣")), fontsize=8)
    axes.set(
        title="What each character costs", xlabel="the character to be predicted", ylabel="nats"
    )
    axes.legend(loc="upper right")
    before, after = float(losses[0].mean()), float(losses[60].mean())
    return [made], {
        "before": f"{before:.2f}",
        "perplexity": f"{torch.tensor(before).exp():.1f}",
        "after": f"{after:.2f}",
        "left": f"{torch.tensor(after).exp():.2f}",
    }
