"""The network: token ids to one weight per kept term. A causal LM's body in one of three attention variants, then the head.

causal: as the language model was trained. echo: the text twice, only the second copy is pooled, so that each of its tokens has
seen the whole text. bidirectional: the causal mask is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import IncompatibleError
from ..kernels.head import head


class SparseNetwork(nn.Module):
    """Body and head of a sparse encoder; training and serving run this same module.

    Attributes:
        body: a transformers decoder (no LM head) that gives hidden states after its last norm.
        weight: [Vk, H] rows of the LM head of the kept terms.
        bias: float32 [Vk] added to the raw logits.
        terms: int32 [Vk], term id of each row, ascending.
    """

    terms: Tensor

    def __init__(
        self,
        body: nn.Module,
        weight: Tensor,
        bias: Tensor,
        terms: Tensor,
        *,
        variant: str,
        scale: float,
        shift: float,
    ) -> None:
        super().__init__()
        self.body = body
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.register_buffer("terms", terms, persistent=False)
        self.variant, self.scale, self.shift = variant, scale, shift

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Weights of a right-padded batch.

        Args:
            input_ids: int64 [B, S].
            lengths: int64 [B] on the CPU, tokens of each text; the rest of its row is padding.

        Returns:
            float32 [B, Vk], zero for a text without tokens.
        """
        hidden, cu_seqlens = self.pooled(input_ids, lengths)
        return head(
            hidden.to(self.weight.dtype),
            self.weight,
            cu_seqlens,
            bias=self.bias,
            scale=self.scale,
            shift=self.shift,
        )

    def pooled(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [T, H] of the tokens that are pooled, packed, and their offsets [B + 1]."""
        texts, longest = input_ids.shape
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        here = torch.arange(longest) < lengths[:, None]
        if self.variant == "echo":
            # Both copies side by side without padding between them: positions stay those of one running text.
            doubled = input_ids.new_zeros(texts, 2 * longest)
            for row, length in zip(range(texts), lengths.tolist(), strict=True):
                doubled[row, : 2 * length] = input_ids[row, :length].repeat(2)
            position = torch.arange(2 * longest)
            input_ids = doubled
            here = (position >= lengths[:, None]) & (position < 2 * lengths[:, None])
        hidden = self.hidden(input_ids, lengths)
        return hidden[here.to(hidden.device)], cu_seqlens

    def hidden(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [B, S, H] of a right-padded batch; those of padding mean nothing."""
        mask = None
        if self.variant == "bidirectional":
            width = input_ids.shape[1]
            real = torch.arange(width) < lengths[:, None]
            # A mask of four dimensions is taken as it is by every attention of transformers. A row that sees nothing would give
            # NaN, so the first column stays open; only padding rows of empty texts look at it.
            real[:, 0] = True
            mask = real[:, None, None, :].expand(-1, 1, width, width).to(input_ids.device)
        # Without a mask attention is causal, and then no token sees the padding to its right.
        output: Tensor = self.body(
            input_ids=input_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return output

    @torch.inference_mode()
    def check_attention(self) -> None:
        """Prove that the variant is what runs: does the first token see the last one?

        Raises:
            IncompatibleError: this architecture ignores the mask it is given.
        """
        device = self.weight.device
        pair = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
        first = self.hidden(pair, torch.tensor([4, 4]))[:, 0]
        sees = not torch.equal(first[0], first[1])
        if sees != (self.variant == "bidirectional"):
            raise IncompatibleError(
                f"variant {self.variant!r}: {type(self.body).__name__} {'ignores' if not sees else 'lacks'} the attention mask; "
                "use another variant or base"
            )
