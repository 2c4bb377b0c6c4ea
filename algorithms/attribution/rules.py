"""How a pass through the blocks is run and differentiated: the plain way, which other methods change in places."""

from __future__ import annotations

from torch import Tensor

from ...models.blocks import OpenBlock


class Rules:
    """A plain pass. What a subclass changes in values is another run; what it changes in gradients another backward."""

    def attend(self, layer: int, block: OpenBlock, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each head's weighted values, (pair, head, token, d_head)."""
        return block.weigh(q, k, v)

    def attention_written(self, layer: int, written: Tensor) -> Tensor:
        """What attention adds to the residual, (pair, token, model); in the last block (pair, read token, model)."""
        return written

    def mlp(self, layer: int, block: OpenBlock, seen: Tensor, *, freeze_norm: bool) -> Tensor:
        """What the MLP writes, from the residual that it reads, likewise."""
        return block.mlp_write(seen, freeze_norm=freeze_norm)

    def mlp_written(self, layer: int, written: Tensor) -> Tensor:
        """What the MLP adds to the residual, likewise."""
        return written


PLAIN = Rules()
