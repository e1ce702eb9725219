"""The network: token ids to one weight per kept term.

A causal LM's body in one of three attention variants, or a masked LM up to its output layer, then
the head. ``causal``: as the language model was trained. ``echo``: the text twice, and only the
second copy is pooled, so that each of its tokens has seen the whole text. ``bidirectional``:
without the causal mask; a masked LM never has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from ..core.errors import IncompatibleError
from ..kernels.head.api import head
from ..kernels.head.api import warm_up as warm_up_head
from ..kernels.topk.api import warm_up as warm_up_topk
from .activations import config_token_bytes, text_bytes
from .prior import own_share
from .quantization import PackedHead

# Decoders whose causal mask gives way to the one they are handed, each proved by a test on a random
# model.
BIDIRECTIONAL = ("gemma", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")


class _NothingKept(DynamicLayer):
    """A layer of a cache that keeps nothing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the states as they are."""
        return key_states, value_states


class MaskedLMBody(nn.Module):
    """A masked LM without its output layer.

    It gives hidden states after the transform that its head puts before the vocabulary.

    Attributes:
        model: a transformers masked LM whose output embedding was replaced by an identity.
        config: its configuration.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        output = model.get_output_embeddings()
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if child is output:
                    setattr(parent, name, nn.Identity())
        self.model, self.config = model, model.config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False
    ) -> BaseModelOutput:
        """Return hidden states [B, S, H]; ``use_cache`` is ignored, decoders have it."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return BaseModelOutput(last_hidden_state=logits)


class SparseNetwork(nn.Module):
    """Body and head of a sparse encoder; training and serving run this same module.

    Attributes:
        body: a transformers decoder (no LM head) that gives hidden states after its last norm, or a
            :class:`MaskedLMBody`.
        weight: [Vk, H] rows of the LM head of the kept terms.
        bias: float32 [Vk] added to the raw logits.
        terms: int32 [Vk], term id of each row, ascending.
        own_rows: int64 [V], row of the term that each token stands for, -1 where it is not kept.
        query_weights: float32 [Vk], while the table of a lexical query encoder is trained; else
            None.
    """

    terms: Tensor
    own_rows: Tensor
    query_weights: nn.Parameter | None

    def __init__(
        self,
        body: nn.Module,
        weight: Tensor,
        bias: Tensor,
        terms: Tensor,
        own_rows: Tensor,
        *,
        variant: str,
        scale: float,
        shift: float,
        log_again: bool = False,
        prior: float = 0.0,
    ) -> None:
        super().__init__()
        self.body = body
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.packed: PackedHead | None = None
        self.register_parameter("query_weights", None)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.register_buffer("terms", terms, persistent=False)
        self.register_buffer("own_rows", own_rows, persistent=False)
        self.variant, self.scale, self.shift, self.log_again = variant, scale, shift, log_again
        self.prior = prior

    def pack_head(self, quantization: str) -> None:
        """Keep the head's rows in 8 or 4 bits from now on; ``weight`` is left without rows."""
        self.packed = PackedHead(self.weight.detach(), quantization)
        self.weight = nn.Parameter(self.weight.detach()[:0].clone(), requires_grad=False)

    def forward(self, input_ids: Tensor, lengths: Tensor, *, own_terms: bool = True) -> Tensor:
        """Return the weights of a right-padded batch.

        Args:
            input_ids: integer [B, S].
            lengths: int64 [B] on the CPU, tokens of each text; the rest of its row is padding.
            own_terms: add the lexical prior, which is for documents.

        Returns:
            float32 [B, Vk], zero for a text without tokens.
        """
        weights = self._weights(*self.pooled(input_ids, lengths))
        if self.prior and own_terms:
            return weights + self.prior * self._own_share(input_ids, lengths)
        return weights

    def padded(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return what :meth:`forward` does for queries, by work of one size for all lengths.

        Padding is computed too and left out of the maximum, so that the work can be recorded.

        Args:
            input_ids: integer [B, S].
            lengths: int64 [B] on the device of ``input_ids``.
        """
        texts, longest = input_ids.shape
        position = torch.arange(longest, device=input_ids.device)
        real = position < lengths[:, None]
        if self.variant == "echo":
            position = torch.arange(2 * longest, device=input_ids.device)
            source = position.where(position < lengths[:, None], position - lengths[:, None])
            input_ids = input_ids.gather(1, source.clamp(0, longest - 1))
            real = (position >= lengths[:, None]) & (position < 2 * lengths[:, None])
        hidden = self._body(
            input_ids,
            self._mask(real | (position == 0))
            if self.variant == "bidirectional"
            else self._no_mask(),
        )
        width = input_ids.shape[1]
        starts = width * torch.arange(texts + 1, device=hidden.device)
        return self._weights(hidden.flatten(0, 1), starts, real.flatten())

    def _weights(self, hidden: Tensor, cu_seqlens: Tensor, pooled: Tensor | None = None) -> Tensor:
        weights = head(
            hidden.to(self.weight.dtype),
            self.weight if self.packed is None else self.packed(),
            cu_seqlens,
            bias=self.bias,
            scale=self.scale,
            shift=self.shift,
            pooled=pooled,
        )
        return torch.log1p(weights) if self.log_again else weights

    def batch_bytes(self, tokens: int, texts: int) -> int:
        """Estimate the bytes of a batch's activations, padding among the tokens."""
        copies = 2 if self.variant == "echo" else 1
        of_token = config_token_bytes(self.body.config, self.bias.element_size())
        return copies * tokens * of_token + texts * text_bytes(len(self.terms))

    def warm_up(self) -> None:
        """Compile every kernel that encoding can launch."""
        warm_up_head(self.weight if self.packed is None else self.packed(), self.bias)
        warm_up_topk(len(self.terms), self.terms.device)

    def _own_share(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        lengths = lengths.to(input_ids.device, non_blocking=True)
        real = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
        rows = self.own_rows[input_ids.long()].where(real, -1)
        return own_share(rows, lengths, len(self.terms))

    def pooled(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states [T, H] of the tokens that are pooled, and offsets [B + 1]."""
        texts, longest = input_ids.shape
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        here = torch.arange(longest) < lengths[:, None]
        if self.variant == "echo":
            # Both copies side by side without padding between them: positions stay those of one
            # running text.
            doubled = input_ids.new_zeros(texts, 2 * longest)
            for row, length in zip(range(texts), lengths.tolist(), strict=True):
                doubled[row, : 2 * length] = input_ids[row, :length].repeat(2)
            position = torch.arange(2 * longest)
            input_ids = doubled
            here = (position >= lengths[:, None]) & (position < 2 * lengths[:, None])
        hidden = self.hidden(input_ids, lengths)
        # The host knows the places; a mask of truth values on a GPU would have to be waited for.
        places = here.flatten().nonzero().squeeze(1).to(hidden.device, non_blocking=True)
        return hidden.flatten(0, 1).index_select(0, places), cu_seqlens

    @torch.inference_mode()
    def sources(self, ids: NDArray[np.int32], terms: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the position of the token of a text whose logit of each term is the largest.

        The body runs once more; of the head, only the rows of the terms.
        """
        device = self.terms.device
        inputs = torch.from_numpy(ids.astype(np.int64)).to(device)
        hidden, _ = self.pooled(inputs[None], torch.tensor([len(ids)]))
        rows = torch.searchsorted(self.terms, torch.from_numpy(terms).to(device))
        weight = self.weight if self.packed is None else self.packed()
        rows = rows.clamp(max=len(weight) - 1)
        logits = hidden.to(weight.dtype) @ weight.index_select(0, rows).T
        positions: NDArray[np.int32] = logits.argmax(0).to(torch.int32).cpu().numpy()
        return positions

    def hidden(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden states [B, S, H] of a right-padded batch; those of padding mean nothing."""
        return self._body(input_ids, self._attention(input_ids, lengths))

    def _body(self, input_ids: Tensor, attention: dict[str, Any]) -> Tensor:
        output: Tensor = self.body(
            input_ids=input_ids, use_cache=False, **attention
        ).last_hidden_state
        return output

    def _attention(self, input_ids: Tensor, lengths: Tensor) -> dict[str, Any]:
        # Without a mask a decoder's attention is causal, and then no token sees the padding to its
        # right.
        if self.variant != "bidirectional":
            return self._no_mask()
        width = input_ids.shape[1]
        real = torch.arange(width) < lengths[:, None]
        # A row that sees nothing would give NaN, so the first column stays open; only padding rows
        # of empty texts look at it.
        real[:, 0] = True
        decoder = not isinstance(self.body, MaskedLMBody)
        if bool(real.all()):
            # Attention without a mask has quicker kernels; a decoder's is causal unless told.
            return {**self._no_mask(), **({"is_causal": False} if decoder else {})}
        return self._mask(real.to(input_ids.device, non_blocking=True))

    def _no_mask(self) -> dict[str, Any]:
        config: Any = self.body.config
        if torch.is_grad_enabled() or config.model_type not in BIDIRECTIONAL:
            return {"attention_mask": None}
        # Without mask and cache, transformers looks for packed texts, for which the host waits.
        cache = Cache(layer_class_to_replicate=_NothingKept)
        return {"attention_mask": None, "past_key_values": cache}

    def _mask(self, real: Tensor) -> dict[str, Any]:
        """Return a mask by which tokens see the places where ``real``, bool [B, S], is true."""
        # Every attention of transformers uses a mask of four dimensions as it is.
        if isinstance(self.body, MaskedLMBody):
            return {"attention_mask": real}
        return {"attention_mask": real[:, None, None, :].expand(-1, 1, real.shape[1], -1)}

    @torch.inference_mode()
    def check_attention(self, longest: int) -> None:
        """Prove that the variant is what runs.

        The first token sees the last one, or does not, and none sees padding.

        Args:
            longest: tokens of the longest text that will come.

        Raises:
            IncompatibleError: this architecture does something else with the mask it is given, or
                was not checked.
        """
        config: Any = self.body.config
        name = type(self.body).__name__
        if self.variant == "bidirectional" and not isinstance(self.body, MaskedLMBody):
            if config.model_type not in BIDIRECTIONAL:
                raise IncompatibleError(
                    f"variant 'bidirectional' was not checked for {config.model_type}, only for "
                    f"{', '.join(BIDIRECTIONAL)}; "
                    "use variant causal or echo"
                )
            if config._attn_implementation != "sdpa":
                raise IncompatibleError(
                    f"variant 'bidirectional' needs attention by sdpa, {name} has "
                    f"{config._attn_implementation}"
                )
            window = getattr(config, "sliding_window", None)
            if window and getattr(config, "use_sliding_window", True) and longest > window:
                raise IncompatibleError(
                    f"variant 'bidirectional': texts of {longest} tokens are longer than the "
                    f"attention window of {name}, "
                    f"{window}; set the manifest's token caps to at most {window}"
                )
        device = self.weight.device
        pair = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
        first = self.hidden(pair, torch.tensor([4, 4]))[:, 0]
        sees = not torch.equal(first[0], first[1])
        if sees != (self.variant == "bidirectional"):
            raise IncompatibleError(
                f"variant {self.variant!r}: {name} {'ignores' if not sees else 'lacks'} the "
                "attention mask; "
                "use another variant or base"
            )
        padded = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 8, 9]], device=device)
        rows = self.hidden(padded, torch.tensor([4, 4]))[:, :4]
        if not torch.equal(rows[0], rows[1]):
            raise IncompatibleError(
                f"variant {self.variant!r}: tokens of {name} see the padding after them"
            )
