"""Attention: which keys a query may see, the cache of keys and values, and the two backends.

Legend: B batch, S query length, T key length, D hidden size, H query heads, K key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import RequestError
from wenlu.models.config import Activation, AttentionKind, Cache, StackConfig
from wenlu.models.fused import rms_norm
from wenlu.models.positions import count_positions, rotate

Backend = Literal["eager", "sdpa"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Visibility:
    """Which keys each query sees: those of its own document, itself included, in a causal stack the earlier ones.

    Padding is a document of its own, so no row of the mask is empty. When every row holds one document the mask is
    not needed: ``allowed`` is None, and ``is_causal`` says whether later keys are hidden.
    """

    allowed: Tensor | None = None  # bool (B or 1, 1, S, T)
    is_causal: bool = False
    bias: Tensor | None = None  # added to the scores (1, H, S, T)

    def within(self, window: int | None, num_queries: int, num_keys: int, device: torch.device) -> Visibility:
        """The same without keys that are ``window`` or more positions away."""
        if window is None or num_keys <= window:
            return self
        keys_T = torch.arange(num_keys, device=device)
        near_ST = (keys_T[num_keys - num_queries :, None] - keys_T).abs() < window
        return replace(self, allowed=near_ST & self.mask(num_queries, num_keys, device), is_causal=False)

    def mask(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """What is allowed, written out."""
        if self.allowed is not None:
            return self.allowed
        all_ST = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
        return (all_ST.tril(num_keys - num_queries) if self.is_causal else all_ST)[None, None]

    def with_bias(self, bias_HST: Tensor) -> Visibility:
        """The same with a bias to the scores, which holds -inf where nothing is allowed."""
        _, S, T = bias_HST.shape
        allowed = self.mask(S, T, bias_HST.device)
        return Visibility(bias=bias_HST[None].masked_fill(~allowed, float("-inf")))


class Placement(NamedTuple):
    """Where the tokens of one call stand, and what they see."""

    positions: Tensor  # int64 (B or 1, S)
    visible: Visibility
    documents: Tensor | None  # int64 (B, S), where any were said


class LayerCache:
    """Keys and values of one layer, in memory allocated once, at the first write, for ``max_length`` positions."""

    def __init__(self, max_length: int) -> None:
        self.max_length, self.length = max_length, 0
        self.memory: list[Tensor] = []  # of keys and of values (B, K, max_length, E)

    def append(self, *new_BKSE: Tensor) -> list[Tensor]:
        """Store new keys and values; give back all of them (B, K, T, E) as views."""
        if torch.is_grad_enabled() and new_BKSE[0].requires_grad:
            raise RuntimeError("a cache is for inference: use torch.no_grad")
        if not self.memory:
            self.memory = [new.new_empty(*new.shape[:2], self.max_length, new.shape[3]) for new in new_BKSE]
        start, self.length = self.length, self.length + new_BKSE[0].shape[2]
        for memory, new in zip(self.memory, new_BKSE, strict=True):
            memory[:, :, start : self.length] = new
        return self.stored

    @property
    def stored(self) -> list[Tensor]:
        """All keys and values (B, K, T, E) as views."""
        assert self.memory, "nothing was stored"
        return [memory[:, :, : self.length] for memory in self.memory]


class KeyValueCache:
    """What a Transformer remembers of the tokens it has read: keys, values, documents and positions.

    Implements ``wenlu.models.config.Cache``.
    """

    def __init__(self, *, num_layers: int, batch_size: int, max_length: int, device: torch.device) -> None:
        self.max_length = max_length
        self.layers = [LayerCache(max_length) for _ in range(num_layers)]
        self.memories: list[LayerCache] = []  # of cross-attention, one a layer, from the first call on
        self.memory_documents_BT: Tensor | None = None
        self.documents_BT = torch.zeros(batch_size, max_length, dtype=torch.int64, device=device)
        self.positions_BT = torch.arange(max_length, device=device).repeat(batch_size, 1)
        self.one_document = self.nothing_said = True
        self.length = 0

    def place(self, documents_BS: Tensor | None, positions_BS: Tensor | None, num_tokens: int) -> Placement:
        """Take in where the next tokens stand, and tell what they see; unsaid documents and positions go on.

        Raises:
            RequestError: ``models.cache_full`` when the tokens do not fit.
        """
        start, end = self.length, self.length + num_tokens
        if end > self.max_length:
            raise RequestError("models.cache_full", length=end, max_length=self.max_length)
        self.length = end
        self.nothing_said &= documents_BS is None and positions_BS is None
        if not self.nothing_said:  # else both tables are as they were made
            self._take_in(documents_BS, positions_BS, start, end)
        if self.one_document:
            visible = one_document(num_tokens, end, device=self.documents_BT.device)
        else:
            visible = same_document(self.documents_BT[:, start:end], self.documents_BT[:, :end], causal=True)
        documents_BS = None if self.nothing_said else self.documents_BT[:, start:end]
        return Placement(self.positions_BT[:, start:end], visible, documents_BS)

    def _take_in(self, documents_BS: Tensor | None, positions_BS: Tensor | None, start: int, end: int) -> None:
        if start == 0:
            self.one_document = True
            last_document_B1 = next_position_B1 = torch.zeros_like(self.documents_BT[:, :1])
        else:
            last_document_B1 = self.documents_BT[:, start - 1 : start]
            next_position_B1 = self.positions_BT[:, start - 1 : start] + 1
        if documents_BS is None:
            documents_BS = last_document_B1.expand(-1, end - start)
            counted_BS = next_position_B1 + torch.arange(end - start, device=next_position_B1.device)
        else:
            first_document_B1 = documents_BS[:, :1] if start == 0 else self.documents_BT[:, :1]
            self.one_document &= bool((documents_BS == first_document_B1).all())
            goes_on_BS = (documents_BS == last_document_B1).cumprod(dim=1)
            counted_BS = count_positions(documents_BS) + goes_on_BS * next_position_B1
        self.documents_BT[:, start:end] = documents_BS
        self.positions_BT[:, start:end] = counted_BS if positions_BS is None else positions_BS

    def keep_memory(self, memory_documents_BT: Tensor | None, num_states: int) -> Tensor | None:
        """Make room for an encoder's memory at the first call; its documents, as that call said them."""
        if not self.memories:
            self.memory_documents_BT = memory_documents_BT
            self.memories = [LayerCache(num_states) for _ in self.layers]
        return self.memory_documents_BT

    def reorder(self, index_N: Tensor) -> None:
        """Let row i continue what was row ``index_N[i]``; the number of rows may change."""
        self.documents_BT = self.documents_BT.index_select(0, index_N)
        self.positions_BT = self.positions_BT.index_select(0, index_N)
        if self.memory_documents_BT is not None:
            self.memory_documents_BT = self.memory_documents_BT.index_select(0, index_N)
        for layer in (*self.layers, *self.memories):
            layer.memory = [memory.index_select(0, index_N) for memory in layer.memory]

    def truncate(self, length: int) -> None:
        """Forget all positions from ``length`` on; with the first of them the encoder's memory too."""
        assert 0 <= length <= self.length, f"cannot keep {length} of {self.length} positions"
        self.length = length
        if length == 0:
            self.memories, self.memory_documents_BT = [], None
        for layer in self.layers:
            layer.length = length


def place(
    input_ids_BS: Tensor,
    *,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    document_ids: Tensor | None = None,
    cache: Cache | None = None,
    attention: AttentionKind = "causal",
) -> Placement:
    """Find where the inputs of a call stand: positions within their documents, and the keys they see."""
    if mask is not None and mask.shape != input_ids_BS.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} for tokens {tuple(input_ids_BS.shape)}")
    documents_BS = masked_documents(mask, document_ids)
    S = input_ids_BS.shape[1]
    if isinstance(cache, KeyValueCache):
        return cache.place(documents_BS, positions, S)
    if positions is None:
        positions = (
            torch.arange(S, device=input_ids_BS.device)[None] if documents_BS is None else count_positions(documents_BS)
        )
    causal = attention == "causal"
    if documents_BS is None or bool((documents_BS == documents_BS[:, :1]).all()):
        return Placement(positions, Visibility(is_causal=causal and S > 1), documents_BS)
    return Placement(positions, same_document(documents_BS, documents_BS, causal=causal), documents_BS)


def masked_documents(mask: Tensor | None, document_ids: Tensor | None) -> Tensor | None:
    """The documents of a row, its padding being number -1; None when nothing was said."""
    if mask is None:
        return document_ids
    return torch.where(mask, 0 if document_ids is None else document_ids, -1)


def see_memory(memory_documents_BT: Tensor | None, documents_BS: Tensor | None) -> Visibility:
    """What the decoder sees of the encoder's states: those of its own document, unsaid: all but padding."""
    if memory_documents_BT is None:
        return Visibility()
    if documents_BS is None:
        allowed_BST = (memory_documents_BT >= 0)[:, None]
    else:
        allowed_BST = documents_BS[:, :, None] == memory_documents_BT[:, None]
    allowed_BST = allowed_BST | ~allowed_BST.any(dim=-1, keepdim=True)  # padding that has no counterpart
    return Visibility(allowed_BST[:, None])


def one_document(num_queries: int, num_keys: int, *, device: torch.device) -> Visibility:
    """What the last queries of one document see; a mask only when they do not begin at its first token."""
    causal = Visibility(is_causal=num_queries > 1)
    return causal if num_queries in (1, num_keys) else Visibility(causal.mask(num_queries, num_keys, device))


def same_document(queries_BS: Tensor, keys_BT: Tensor, *, causal: bool) -> Visibility:
    """Keys of the same document, causal: not later ones. The queries are the last S of the T keys."""
    allowed_B1ST = (queries_BS[:, :, None] == keys_BT[:, None, :])[:, None]
    if causal:
        S, T = allowed_B1ST.shape[2:]
        allowed_B1ST = allowed_B1ST & Visibility(is_causal=True).mask(S, T, queries_BS.device)
    return Visibility(allowed_B1ST)


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values (Ainslie et al. 2023); q, k and v are separate matrices.

    With ``memory_size``, keys and values are made from the states of an encoder (cross-attention).
    ``attention_weights`` passes the weights (B, H, S, T) on unchanged: hook it to read or change them (eager only).
    """

    def __init__(self, config: StackConfig, *, memory_size: int | None = None) -> None:
        super().__init__()
        D, H, K, E = config.hidden_size, config.num_heads, config.kv_heads, config.head_size
        read = D if memory_size is None else memory_size
        self.q = nn.Linear(D, H * E, bias="q" in config.biases)
        self.k = nn.Linear(read, K * E, bias="k" in config.biases)
        self.v = nn.Linear(read, K * E, bias="v" in config.biases)
        self.o = nn.Linear(H * E, D, bias="o" in config.biases)
        self.q_norm = build_norm(config, E, of_head=True) if config.qk_norm == "head" else None
        self.k_norm = build_norm(config, E, of_head=True) if config.qk_norm == "head" else None
        self.attention_weights = nn.Identity()
        self.head_size = E
        self.scale = E**-0.5 if config.attention_scale is None else config.attention_scale
        self.softcap = config.attention_softcap
        self.dropout = config.attention_dropout
        self.backend: Backend = "sdpa"

    def forward(
        self,
        x_BSD: Tensor,
        visible: Visibility,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
        memory_BTD: Tensor | None = None,
    ) -> Tensor:
        """Mix the values that each position may see; with a memory, those of the memory, which a cache keeps."""
        q_BHSE = self.heads(self.q, self.q_norm, x_BSD, rotation)
        if memory_BTD is not None and cache is not None and cache.length:
            k_BKTE, v_BKTE = cache.stored
        else:
            read_BTD = x_BSD if memory_BTD is None else memory_BTD
            k_BKTE = self.heads(self.k, self.k_norm, read_BTD, rotation)
            v_BKTE = self.heads(self.v, None, read_BTD, None)
            if cache is not None:
                k_BKTE, v_BKTE = cache.append(k_BKTE, v_BKTE)
        fused = self.backend == "sdpa" and self.softcap is None
        attend = self.attend_sdpa if fused else self.attend_eager
        output: Tensor = self.o(attend(q_BHSE, k_BKTE, v_BKTE, visible).transpose(1, 2).flatten(2))
        return output

    def heads(
        self, matrix: nn.Module, norm: nn.Module | None, x_BSD: Tensor, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Queries, keys or values (B, H or K, S, E) of states."""
        x_BSHE = matrix(x_BSD).unflatten(-1, (-1, self.head_size))
        if norm is not None:
            x_BSHE = norm(x_BSHE)
        if rotation is not None:
            x_BSHE = rotate(x_BSHE, *rotation)
        heads_BHSE: Tensor = x_BSHE.transpose(1, 2)
        return heads_BHSE

    def attend_sdpa(self, q_BHSE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, visible: Visibility) -> Tensor:
        """Attention by torch's fused kernels; the weights exist nowhere."""
        group = q_BHSE.shape[1] // k_BKTE.shape[1]
        mask = visible.allowed if visible.bias is None else visible.bias.to(q_BHSE.dtype)
        if group > 1 and mask is not None and q_BHSE.device.type != "cpu":
            # of CUDA's fused kernels, none takes both a mask and groups
            k_BKTE, v_BKTE = k_BKTE.repeat_interleave(group, dim=1), v_BKTE.repeat_interleave(group, dim=1)
        return F.scaled_dot_product_attention(
            q_BHSE, k_BKTE, v_BKTE, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible.is_causal, scale=self.scale, enable_gqa=q_BHSE.shape[1] != k_BKTE.shape[1],
        )  # fmt: skip

    def attend_eager(self, q_BHSE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, visible: Visibility) -> Tensor:
        """Attention written out (Vaswani et al. 2017, section 3.2.1); the softmax is taken in float32 at least."""
        group = q_BHSE.shape[1] // k_BKTE.shape[1]
        k_BHTE, v_BHTE = k_BKTE.repeat_interleave(group, dim=1), v_BKTE.repeat_interleave(group, dim=1)
        scores_BHST = q_BHSE @ k_BHTE.transpose(2, 3) * self.scale
        if self.softcap is not None:
            scores_BHST = soft_cap(scores_BHST, self.softcap)
        if visible.bias is not None:
            scores_BHST = scores_BHST + visible.bias
        elif visible.allowed is not None or visible.is_causal:
            allowed = visible.mask(q_BHSE.shape[2], k_BKTE.shape[2], q_BHSE.device)
            scores_BHST = scores_BHST.masked_fill(~allowed, float("-inf"))
        weights_BHST = scores_BHST.softmax(dim=-1, dtype=torch.promote_types(scores_BHST.dtype, torch.float32))
        weights_BHST = self.attention_weights(weights_BHST.to(v_BHTE.dtype))
        return F.dropout(weights_BHST, self.dropout, self.training) @ v_BHTE


class RMSNorm(nn.Module):
    """Root mean square layer normalisation; ``offset`` is added to the weight."""

    def __init__(self, size: int, *, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 1 - offset))
        self.eps = eps
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root mean square of the last dimension, and scale."""
        return rms_norm(x, self.weight + self.offset if self.offset else self.weight, self.eps)


def build_norm(config: StackConfig, size: int | None = None, *, of_head: bool = False) -> nn.Module:
    """The norm that the stack chose, over the hidden size or another; over a head always RMSNorm."""
    size = config.hidden_size if size is None else size
    if config.norm == "layer_norm" and not of_head:
        return nn.LayerNorm(size, eps=config.norm_eps)
    return RMSNorm(size, eps=config.norm_eps, offset=1.0 if config.norm == "rms_norm_plus_one" else 0.0)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Values bent to stay within ``cap`` (Gemma 2; Bello et al. 2016)."""
    return cap * torch.tanh(x / cap)
