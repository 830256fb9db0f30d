"""The smallest language models that keep the protocol, for tests of what is built on top of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyCache:
    """The tokens read so far."""

    def __init__(self, batch_size: int) -> None:
        self.ids_BT = torch.zeros((batch_size, 0), dtype=torch.long)

    @property
    def length(self) -> int:
        return self.ids_BT.shape[1]

    def reorder(self, index: Tensor) -> None:
        self.ids_BT = self.ids_BT[index]

    def truncate(self, length: int) -> None:
        self.ids_BT = self.ids_BT[:, :length]


class TinyModel(nn.Module):
    """A causal model: the hidden state is a fading sum of the embeddings of the tokens so far (float64 inside)."""

    def __init__(self, vocab_size: int, *, max_positions: int | None = None, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.embedding = nn.Parameter(torch.randn(vocab_size, 8, generator=generator, dtype=torch.float64))
        self.output = nn.Parameter(scale * torch.randn(8, vocab_size, generator=generator, dtype=torch.float64))
        self.calls: list[tuple[int, int]] = []

    def hidden(self, input_ids_BS: Tensor, *, mask=None, positions=None, document_ids=None, cache=None) -> Tensor:
        self.calls.append(tuple(input_ids_BS.shape))
        if self.max_positions is not None:
            read = input_ids_BS.shape[1] + (cache.length if cache is not None else 0)
            assert read <= self.max_positions, f"{read} positions read"
        ids_BT = input_ids_BS if cache is None else torch.cat([cache.ids_BT, input_ids_BS], dim=1)
        states, state = [], torch.zeros(len(ids_BT), 8, dtype=torch.float64)
        for token_B in ids_BT.T:
            state = 0.7 * state + self.embedding[token_B]
            states.append(torch.tanh(state))
        if cache is not None:
            cache.ids_BT = ids_BT
        return torch.stack(states, dim=1)[:, -input_ids_BS.shape[1] :]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.output

    def forward(self, input_ids_BS: Tensor, **options) -> Tensor:
        return self.logits(self.hidden(input_ids_BS, **options))

    def target_log_probs(self, input_ids_BS: Tensor, labels_BS: Tensor, **options) -> Tensor:
        with torch.no_grad():
            log_probs_BSV = self(input_ids_BS, **options).log_softmax(dim=-1)
        taken_BS = log_probs_BSV.gather(-1, labels_BS.clamp(min=0)[..., None])[..., 0]
        return torch.where(labels_BS == -100, 0.0, taken_BS).float()

    def new_cache(self, batch_size: int, max_length: int) -> TinyCache:
        return TinyCache(batch_size)


class ScriptedModel(nn.Module):
    """A model that says one fixed sequence after the start token: token ``script[i]`` after i + 1 tokens."""

    def __init__(self, script: list[int], vocab_size: int, *, max_positions: int | None = None) -> None:
        super().__init__()
        self.script, self.vocab_size, self.max_positions = script, vocab_size, max_positions

    def hidden(self, input_ids_BS: Tensor, *, mask=None, positions=None, document_ids=None, cache=None) -> Tensor:
        start = cache.length
        cache.ids_BT = torch.cat([cache.ids_BT, input_ids_BS], dim=1)
        return torch.arange(start, cache.length).expand(len(input_ids_BS), -1)

    def logits(self, hidden: Tensor) -> Tensor:
        script = torch.tensor(self.script)
        return 50.0 * nn.functional.one_hot(script[hidden.clamp(max=len(self.script) - 1)], self.vocab_size).float()

    def new_cache(self, batch_size: int, max_length: int) -> TinyCache:
        return TinyCache(batch_size)


class ByteTokenizer:
    """256 bytes, then the end token (256), a pad token (257) and an unknown token (258) for control characters."""

    vocab_size = 259
    end_id = context_id = 256
    unknown_id = 258
    special_ids = frozenset({256, 257, 258})

    def encode(self, text: str) -> list[int]:
        return [258 if byte < 32 else byte for byte in text.encode()]

    def encode_with_offsets(self, text: str, *, where: str | None = None):
        ids, offsets = [], []
        for index, character in enumerate(text):
            for token_id in self.encode(character):
                ids.append(token_id)
                offsets.append((index, index + 1))
        return _Encoding(ids, offsets)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids, *, keep_special: bool = False) -> str:
        return bytes(token_id for token_id in ids if token_id < 256).decode(errors="replace")

    def round_trips(self, text: str, ids=None) -> bool:
        return self.decode(self.encode(text)) == text

    def token(self, token_id: int) -> str:
        return f"<{token_id}>" if token_id in self.special_ids else bytes([token_id]).decode("latin-1")

    def stream(self) -> _ByteDecoder:
        return _ByteDecoder()


class _Encoding:
    def __init__(self, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        self.ids, self.offsets = ids, offsets


class _ByteDecoder:
    def __init__(self) -> None:
        import codecs

        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self.decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def finish(self) -> str:
        return self.decoder.decode(b"", final=True)
