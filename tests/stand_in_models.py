"""The smallest modules with the calls of an encoder and of an encoder-decoder, for tests of objectives alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """One head over what ``visible`` (B, S, T) shows, added to what came in."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(size, size) for _ in range(3))
        self.mix = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x_BSD: Tensor, seen_BTD: Tensor, visible: Tensor | None) -> Tensor:
        q, k, v = (part(x) for part, x in zip(self.qkv, (x_BSD, seen_BTD, seen_BTD), strict=True))
        x_BSD = x_BSD + F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        output: Tensor = x_BSD + self.mix(x_BSD)
        return output


class Heads(nn.Module):
    """The head of pairs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.next_sentence = nn.Linear(size, 2)


class StandInEncoder(nn.Module):
    """Reads both ways inside each document."""

    def __init__(self, vocab_size: int, *, size: int = 32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.token, self.position = nn.Embedding(vocab_size, size), nn.Embedding(512, size)
        self.segment, self.pooler, self.head = nn.Embedding(2, size), nn.Linear(size, size), Heads(size)
        self.layers = nn.ModuleList(Attention(size) for _ in range(2))

    def hidden(self, input_ids: Tensor, *, positions: Tensor, segments: Tensor | None, document_ids: Tensor) -> Tensor:
        x = self.token(input_ids) + self.position(positions)
        x = x if segments is None else x + self.segment(segments)
        visible = document_ids[:, :, None] == document_ids[:, None]
        for layer in self.layers:
            x = layer(x, x, visible)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.token.weight)

    def pooled(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.pooler(hidden[:, 0]))


class StandInEncoderDecoder(nn.Module):
    """An encoder, and a decoder that sees it and what it has given."""

    def __init__(self, vocab_size: int, *, size: int = 32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.token, self.position = nn.Embedding(vocab_size, size), nn.Embedding(512, size)
        self.encoder, self.own, self.cross = Attention(size), Attention(size), Attention(size)

    def _embedded(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.token(input_ids) + self.position(torch.arange(input_ids.shape[1]))
        return embedded

    def encode(self, input_ids: Tensor, *, mask: Tensor | None) -> Tensor:
        x = self._embedded(input_ids)
        memory: Tensor = self.encoder(x, x, None if mask is None else mask[:, None])
        return memory

    def hidden(self, input_ids: Tensor, *, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        x = self._embedded(input_ids)
        length = x.shape[1]
        x = self.own(x, x, torch.ones(length, length, dtype=torch.bool).tril())
        output: Tensor = self.cross(x, memory, None if memory_mask is None else memory_mask[:, None])
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.token.weight)
