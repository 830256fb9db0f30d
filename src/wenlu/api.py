"""Wenlu from Python: the ten lines of the README. Everything here only wires parts together.

tokenizer = wenlu.train_tokenizer(["novel.txt"], vocab_size=2000)
store = wenlu.pack(["novel.txt"], "stores/novel", tokenizer=tokenizer)
run = wenlu.train("llama-tiny", data=store, output="runs/novel", overrides=["train.steps=60"])
model = wenlu.load(run.path)
model.score("...").bits_per_byte
model.generate("...", max_new_tokens=40)
wenlu.evaluate(model, store).total.bits_per_byte
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wenlu.bundle import Bundle, load_bundle
from wenlu.core.errors import RequestError
from wenlu.core.publication import check_target, publish
from wenlu.core.settings import load as load_settings
from wenlu.data.documents import Report, read_documents
from wenlu.data.settings import DataSettings
from wenlu.data.store import Split, Store
from wenlu.data.tokens import build_store
from wenlu.evaluation.documents import open_corpus
from wenlu.evaluation.evaluator import Evaluation, default_windows, evaluate_documents, evaluate_split
from wenlu.evaluation.predictions import answers
from wenlu.evaluation.scoring import TextScore, score_text
from wenlu.generation.embedding import Pooling, Vectors, embed, read_settings
from wenlu.generation.fill import DEFAULT_TOP, Filled, fill
from wenlu.generation.text import Completion, complete, prepare, prepare_chat
from wenlu.models.config import LanguageModel
from wenlu.models.device import DeviceName
from wenlu.tokenization.chat import Message, asked
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerKind, TokenizerSettings
from wenlu.training.results import RunResult
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import RunSettings

StringPath = str | Path


class Model:
    """A finished model with its tokenizer: a decoder scores and generates, an encoder fills and embeds.

    Whatever was fine-tuned on labelled examples predicts.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def language_model(self) -> LanguageModel:
        """The model itself: token ids in, logits out; RequestError where it does not read from left to right."""
        return self.bundle.language_model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return self.bundle.tokenizer

    def score(self, text: str, *, context: int = 0, stride: int = 0, count_end: bool = True) -> TextScore:
        """The probability of a text, in all and token by token; see ``TextScore``."""
        windows = default_windows(self.language_model, context=context, stride=stride)
        return score_text(self.language_model, self.tokenizer, text, windows=windows, count_end=count_end)

    def generate(self, prompt: str = "", **settings: object) -> str:
        """The continuation of a prompt; ``settings`` are fields of ``GenerationSettings`` (max_new_tokens, ...).

        Raises:
            RequestError: ``api.several_sequences`` with ``num_sequences`` above 1, which ``complete`` gives.
        """
        completions = self.complete(prompt, **settings)
        if len(completions) > 1:
            raise RequestError("api.several_sequences", count=len(completions))
        return completions[0].text

    def complete(self, prompt: str = "", **settings: object) -> list[Completion]:
        """All continuations of a prompt (``num_sequences``) with their tokens, log-probabilities and ends."""
        chosen = self.bundle.generation.replace(**settings)
        ready = prepare(self.tokenizer, prompt, chosen, max_positions=self.language_model.max_positions)
        return complete(self.language_model, self.tokenizer, ready, chosen)

    def answer(self, conversation: str | Sequence[Message], **settings: object) -> str:
        """The answer of a chat model to a user's question, or to a conversation that a user's message ends.

        Raises:
            RequestError: ``chat.no_template``, ``chat.refused``, or the conversation is too long.
        """
        messages = asked(conversation) if isinstance(conversation, str) else conversation
        chosen = self.bundle.generation.replace(**settings, num_sequences=1)
        ready = prepare_chat(self.tokenizer, messages, chosen, max_positions=self.language_model.max_positions)
        return complete(self.language_model, self.tokenizer, ready, chosen)[0].text

    def fill(self, text: str, *, top: int = DEFAULT_TOP) -> Filled:
        """The likeliest tokens for each ``[MASK]`` of a text, by a masked language model; see ``Filled``.

        Raises:
            RequestError: the model is no masked one, or nothing is masked.
            TokenizerError: ``tokenization.no_mask_token``.
        """
        return fill(self.bundle.model, self.tokenizer, [text], top=top)[0]

    def predict(self, rows: str | Sequence[str | Mapping[str, object]]) -> list[Mapping[str, Any] | None]:
        """The answers of a fine-tuned model to a text, texts, or rows with the fields of its task: labels, tags, text.

        None stands for a row that has nothing to be read.

        Raises:
            RequestError: the model was not fine-tuned, or its task needs rows and was given texts.
            DataError: a row is wrong.
        """
        return answers(self.bundle, [rows] if isinstance(rows, str) else rows)

    def embed(
        self, texts: str | Sequence[str], *, pooling: Pooling | None = None, normalize: bool = True,
        truncate: bool = False,
    ) -> Vectors:  # fmt: skip
        """The vector (D) of a text, or those of several texts (N, D), by an encoder, as float32.

        Without a ``pooling`` the model's folder decides (``1_Pooling/config.json``), else it is the mean.

        Raises:
            RequestError: the model has no encoder of texts, or a text is too long and is not to be truncated.
            CheckpointError: the folder asks for what is not computed here.
        """
        settings = read_settings(self.bundle.path, pooling=pooling, normalize=normalize)
        given = [texts] if isinstance(texts, str) else texts
        found = embed(self.bundle.model, self.tokenizer, given, settings, truncate=truncate).vectors
        return found[0] if isinstance(texts, str) else found


def train_tokenizer(
    paths: Sequence[StringPath],
    *,
    vocab_size: int = 8192,
    kind: TokenizerKind = "bpe",
    output: StringPath | None = None,
) -> Tokenizer:
    """A tokenizer trained on text files; saved as Hugging Face files where ``output`` says."""
    if output is not None:
        check_target(Path(output), replace=False)  # before the work, not after it
    settings = DataSettings(paths=tuple(str(path) for path in paths))
    report = Report()
    texts = (document.text for document in read_documents(settings, report))
    tokenizer = Tokenizer.train(texts, TokenizerSettings(kind=kind, vocab_size=vocab_size))
    report.announce()
    if output is not None:
        publish(Path(output), tokenizer.save)
    return tokenizer


def pack(
    paths: Sequence[StringPath],
    output: StringPath,
    *,
    tokenizer: Tokenizer | None = None,
    settings: DataSettings | None = None,
) -> Store:
    """Read, clean, de-duplicate, split and tokenise text files into a token store on disk.

    ``settings`` are those of the ``[data]`` table, except the paths. Without a tokenizer one is trained on the text.
    """
    chosen = replace(settings or DataSettings(), paths=tuple(str(path) for path in paths))
    return build_store(Path(output), chosen, tokenizer=tokenizer)


def open_store(path: StringPath) -> Store:
    """A packed corpus, verified against its manifest."""
    return Store.open(Path(path))


def train(
    settings: StringPath,
    *,
    data: Store | StringPath | Sequence[StringPath] | None = None,
    output: StringPath,
    overrides: Sequence[str] = (),
) -> RunResult:
    """Train a run from a preset's name or a TOML file; ``overrides`` read ``train.steps=100``."""
    preset, file = (None, Path(settings)) if str(settings).endswith(".toml") else (str(settings), None)
    values = {"data.paths": _paths(data) or None}
    resolved = load_settings(RunSettings, preset=preset, file=file, overrides=overrides, values=values)
    store = data if isinstance(data, Store) else None
    return train_run(resolved, Path(output), evaluate=evaluate_split, store=store)


def resume(run: StringPath) -> RunResult:
    """Continue an interrupted run from its newest whole checkpoint, bit for bit."""
    return resume_run(Path(run), evaluate=evaluate_split)


def load(where: StringPath | None = None, *, device: DeviceName = "auto") -> Model:
    """The model of a run, a model directory or a name under ``runs/``; None is the newest finished run."""
    return Model(load_bundle(where, device=device))


def evaluate(
    model: Model,
    data: Store | StringPath | Sequence[StringPath],
    *,
    split: Split | None = None,
    context: int = 0,
    stride: int = 0,
    max_tokens: int = 0,
) -> Evaluation:
    """Loss, perplexity, bits per byte and per character, with intervals, of text files or of a split of a store.

    A store that was made with another tokenizer is decoded, and encoded with the model's own.
    """
    corpus = open_corpus(_paths(data), split=split)
    tokenizer = model.tokenizer
    windows = default_windows(model.language_model, context=context, stride=stride)
    return evaluate_documents(
        model.language_model,
        corpus.documents(tokenizer),
        context_id=tokenizer.context_id,
        end_id=tokenizer.end_id,
        windows=windows,
        max_tokens=max_tokens,
        total_tokens=corpus.num_tokens(tokenizer),
    )


def _paths(data: Store | StringPath | Sequence[StringPath] | None) -> list[str]:
    given = data.path if isinstance(data, Store) else data
    return [str(path) for path in ([given] if isinstance(given, str | Path) else given or ())]
