"""The exact gradient by segments: each is differentiated alone, from the last to the first.

The carry between two segments is cut into a leaf, and what arrives at the leaf is handed to the
segment before as the gradient of its last carry. So no more than one graph is needed at a time, and
the gradient is that of the whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bptt import carry as carries
from bptt.carry import Carry
from bptt.gradients.chunks import Chunks, differentiate
from bptt.gradients.replay import copied


@dataclass(eq=False)
class Segment:
    """One segment's graph: from the carry it began with to its loss and its last carry."""

    leaf: Carry
    end: Carry
    value: Tensor | None

    def differentiate(self, arriving: list[Tensor | None]) -> list[Tensor | None]:
        """Backward from the loss and from the last carry; return what arrives at the first one.

        Args:
            arriving: the gradient of the rest of the loss by each tensor of ``end``; empty at the
                sequence's end.
        """
        pairs: list[tuple[Tensor, Tensor | None]] = []
        if self.value is not None:
            pairs.append((self.value, None))
        if arriving:
            ends = zip(carries.tensors(self.end), arriving, strict=True)
            pairs += [(t, g) for t, g in ends if g is not None and t.requires_grad]
        if pairs:
            differentiate([t for t, _ in pairs], [g for _, g in pairs])
        return [leaf.grad for leaf in carries.tensors(self.leaf)]


def run_segment(chunks: Chunks, start: int, stop: int, carry: Carry, *, constant: bool):
    """Run a segment with its graph.

    Args:
        carry: its first carry; values only, no graph is followed.
        constant: whether nothing stands before it, so that no gradient by its carry is needed.

    Returns:
        The model's output, and the :class:`Segment`.
    """
    leaf = copied(carry)
    if not constant:
        leaf = carries.apply(_ask_for_gradient, leaf)
    # A copy, because a model may write on the carry it is given, and a leaf may not be written on.
    output, end = chunks.run(start, stop, carries.apply(lambda t: t.clone(), leaf))
    return output, Segment(leaf, end, chunks.score(output, start, stop))


def _ask_for_gradient(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())
