"""The rows that objectives make of a corpus: pairs, cut-out spans, damaged texts; the same ones whoever makes them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wenlu.core import plugins
from wenlu.core.errors import DataError, SettingsError, TokenizerError
from wenlu.data.loader import Loader
from wenlu.data.settings import DataSettings
from wenlu.data.store import DocumentIndex, TokenStore
from wenlu.data.tokens import Store, build_store
from wenlu.tasks._base import CorpusObjective
from wenlu.tasks._targets import Guesses, scores
from wenlu.tasks._vocabulary import MASK, Vocabulary
from wenlu.tasks.denoising import Denoising, DenoisingSettings
from wenlu.tasks.next_sentence import IS_NEXT, IS_OTHER, NextSentence, PairSettings
from wenlu.tasks.span_corruption import SpanCorruption, SpanSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

OBJECTIVES = ("masked_lm", "next_sentence", "span_corruption", "denoising")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONG = 40


def objective(name: str, **settings: object) -> CorpusObjective:
    module = plugins.load("wenlu.tasks", name)
    task = module.create(module.SETTINGS(**settings))
    assert isinstance(task, CorpusObjective)
    return task


def texts(count: int, sentences: int, alphabet: str) -> list[str]:
    """Documents of sentences of 5 to 14 letters, each between a dash and a full stop."""
    draw = np.random.default_rng(len(alphabet) + count + 100 * sentences)
    made = []
    for _ in range(count):
        words = ["-" + "".join(draw.choice(list(alphabet), size=draw.integers(5, 15))) + "." for _ in range(sentences)]
        made.append("".join(words))
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    marks = ("[MASK]", "[CLS]", "[SEP]", *(f"<extra_id_{number}>" for number in range(100)))
    settings = TokenizerSettings(kind="characters", vocab_size=200, special_tokens=marks)
    return Tokenizer.train([LETTERS + LETTERS.upper() + "-."] * 3, settings)


@pytest.fixture(scope="module")
def store(tokenizer: Tokenizer) -> TokenStore:
    """Two files, of small and of capital letters, with long and short documents."""
    small, large = texts(6, LONG, LETTERS) + texts(40, 3, LETTERS), texts(50, 8, LETTERS.upper())
    return store_of(tokenizer, small, large)


def store_of(tokenizer: Tokenizer, *files: list[str]) -> TokenStore:
    documents = [[*tokenizer.encode(text), tokenizer.end_id] for text in itertools.chain(*files)]
    made = TokenStore.from_documents(documents, end_id=tokenizer.end_id, vocab_size=tokenizer.vocab_size)
    made.files = np.repeat(np.arange(len(files), dtype=np.uint32), [len(file) for file in files])
    return made


def rows_of(task: CorpusObjective, store: TokenStore, tokenizer: Tokenizer, length: int, *, epochs: int = 1) -> list:
    made = [task.epoch(store, tokenizer, sequence_length=length, seed=3, epoch=epoch) for epoch in range(epochs)]
    return [epoch.row(number) for epoch in made for number in range(len(epoch))]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equal_batches_whoever_makes_them(name: str, store: TokenStore, tokenizer: Tokenizer) -> None:
    """From any batch on, with threads or without; another seed or place gives others."""

    def loader(*, workers: int = 0, seed: int = 3) -> Loader:
        def epoch(number: int):  # type: ignore[no-untyped-def]
            return objective(name).epoch(store, tokenizer, sequence_length=48, seed=seed, epoch=number)

        return Loader(store, sequence_length=48, batch_size=8, seed=seed, num_workers=workers, make_epoch=epoch)

    wanted = list(itertools.islice(loader().batches(), 60))
    assert loader().epochs_at(60) > 2
    for start, workers in ((0, 3), (17, 0), (41, 2)):
        stream = loader(workers=workers).batches(start)
        for ours, theirs in zip(itertools.islice(stream, 60 - start), wanted[start:], strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        stream.close()  # type: ignore[attr-defined]
    other = next(iter(loader(seed=4).batches()))
    assert not torch.equal(other["input_ids"], wanted[0]["input_ids"])
    shapes = {tuple(tensor.shape for tensor in batch.values()) for batch in wanted}
    assert len(shapes) == 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_text_is_damaged_anew_every_time(name: str, tokenizer: Tokenizer) -> None:
    one = store_of(tokenizer, texts(1, 4, LETTERS))
    first, second = (objective(name).epoch(one, tokenizer, sequence_length=200, seed=3, epoch=e).row(0) for e in (0, 1))
    assert any((first[key].shape != second[key].shape) or (first[key] != second[key]).any() for key in first)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_tokenizer_without_the_special_tokens_is_refused(name: str, store: TokenStore) -> None:
    bare = Tokenizer.train([LETTERS * 3], TokenizerSettings(kind="characters", vocab_size=60))
    with pytest.raises(TokenizerError) as error:
        objective(name).epoch(store, bare, sequence_length=48, seed=1, epoch=0)
    assert error.value.id == "tasks.token_missing"
    assert str(error.value.values["token"]) in objective(name).special_tokens()


# ---- pairs ----


def pairs_of(rows: list, tokenizer: Tokenizer) -> list[tuple[str, str, int, bool]]:
    """(first part, second part, label, whether the row has padding) of every pair."""
    vocabulary, found = Vocabulary.of(tokenizer), []
    separator = vocabulary.mark(["[SEP]"])
    for row in rows:
        ids = np.where(row["labels"] != -100, row["labels"], row["input_ids"])
        for start in np.flatnonzero(row["pair_labels"] != -100):
            inside = np.flatnonzero(row["document_ids"] == row["document_ids"][start])
            assert inside[0] == start
            part = ids[inside]
            middle, end = np.flatnonzero(part == separator)
            assert end == len(part) - 1
            assert (row["segment_ids"][inside] == (np.arange(len(part)) > middle)).all()
            first, second = (tokenizer.decode(piece.tolist()) for piece in (part[1:middle], part[middle + 1 : end]))
            found.append((first, second, int(row["pair_labels"][start]), bool((row["document_ids"] < 0).any())))
    return found


def test_pairs_follow_or_come_from_the_same_source(store: TokenStore, tokenizer: Tokenizer) -> None:
    documents = [tokenizer.decode(store.document(number)[:-1].tolist()) for number in range(store.num_documents)]
    pairs = pairs_of(rows_of(NextSentence(), store, tokenizer, 100, epochs=12), tokenizer)
    assert len(pairs) > 1000
    for first, second, label, _ in pairs:
        assert first.islower() == second.islower(), "both are of one file"
        follows = any(first + second in document for document in documents)
        assert follows == (label == IS_NEXT)
        assert any(second in document for document in documents), "one stretch of one document"
    begins = {
        document.find(b) for _, b, label, _ in pairs if label == IS_OTHER for document in documents if b in document
    }
    assert len(begins) > 100, "anywhere in a document"
    others = sum(label == IS_OTHER for _, _, label, _ in pairs)
    assert abs(others - len(pairs) / 2) <= 5 * math.sqrt(len(pairs) / 4)


def mixed_documents() -> list[str]:
    """Many short documents, and some so long that most others have no second part of their length."""
    draw = np.random.default_rng(5)
    short = [text for count in draw.geometric(0.25, size=150) for text in texts(1, 1 + int(count), LETTERS)]
    return short + texts(3, LONG, LETTERS)


@pytest.mark.parametrize(("length", "epochs"), [(60, 10), (300, 30)])
def test_the_form_of_a_pair_does_not_tell_its_label(length: int, epochs: int, tokenizer: Tokenizer) -> None:
    """Beginnings, ends and lengths are alike for both labels, within what chance allows, in documents of any length."""
    store = store_of(tokenizer, mixed_documents())
    pairs = pairs_of(rows_of(NextSentence(), store, tokenizer, length, epochs=epochs), tokenizer)
    if length == 300:
        pairs = [pair for pair in pairs if len(pair[0]) > 60]
    assert len(pairs) > 300
    for feature in (
        lambda first, second: len(second),
        lambda first, second: len(first) + len(second),
        lambda first, second: 20 * second.endswith("."),
        lambda first, second: 20 * second.startswith("-"),
        lambda first, second: 20 * first.endswith("."),
    ):
        values = {label: [feature(a, b) for a, b, one, _ in pairs if one == label] for label in (IS_NEXT, IS_OTHER)}
        means = [np.mean(values[label]) for label in values]
        error = math.sqrt(sum(np.var(values[label]) / len(values[label]) for label in values))
        assert abs(means[0] - means[1]) <= 5 * error + 0.02 * means[0], (means, error)


def test_neither_kind_of_second_part_begins_a_document_or_more_often_a_sentence(tokenizer: Tokenizer) -> None:
    """Documents begin with "*"; sentences are of 5 to 14 letters or so long that none begins near most places."""
    draw = np.random.default_rng(8)
    documents = []
    for size in (10, 10, 10, 400) * 8:
        sentences = [
            "".join(draw.choice(list(LETTERS), size=int(draw.integers(size // 2, size + 5)))) for _ in range(9)
        ]
        documents.append("*" + "".join(f"-{sentence}." for sentence in sentences))
    settings = TokenizerSettings(kind="characters", vocab_size=99, special_tokens=("[MASK]", "[CLS]", "[SEP]"))
    starred = Tokenizer.train([LETTERS + "-.*"] * 3, settings)
    pairs = pairs_of(rows_of(NextSentence(), store_of(starred, documents), starred, 160, epochs=20), starred)
    assert not any(second.startswith("*") for _, second, _, _ in pairs)
    begins = {label: [second[0] == "-" for _, second, one, _ in pairs if one == label] for label in (IS_NEXT, IS_OTHER)}
    share = float(np.mean([*begins[IS_NEXT], *begins[IS_OTHER]]))
    assert 0.2 < share < 0.95, "both with sentences and without"
    error = math.sqrt(share * (1 - share) * sum(1 / len(found) for found in begins.values()))
    assert abs(np.mean(begins[IS_NEXT]) - np.mean(begins[IS_OTHER])) <= 4 * error, (share, error)


def test_rows_of_pairs_are_nearly_full(store: TokenStore, tokenizer: Tokenizer) -> None:
    for pairs in ("next_sentence", "sentence_order"):
        rows = rows_of(NextSentence(PairSettings(pairs=pairs)), store, tokenizer, 100)  # type: ignore[arg-type]
        used = np.mean([(row["document_ids"] >= 0).mean() for row in rows[:-1]])
        assert used > 0.8, "short documents lose most, as B may not end with its document"


def test_sentence_order_exchanges_whole_sentences(store: TokenStore, tokenizer: Tokenizer) -> None:
    documents = [tokenizer.decode(store.document(number)[:-1].tolist()) for number in range(store.num_documents)]
    task = NextSentence(PairSettings(pairs="sentence_order"))
    pairs = pairs_of(rows_of(task, store, tokenizer, 100, epochs=4), tokenizer)
    for first, second, label, _ in pairs:
        together = first + second if label == IS_NEXT else second + first
        assert any(together in document for document in documents)
        assert all(part.startswith("-") and part.endswith(".") for part in (first, second))
    assert {label for _, _, label, _ in pairs} == {IS_NEXT, IS_OTHER}


def test_a_store_that_does_not_know_its_files_is_refused(store: TokenStore, tokenizer: Tokenizer) -> None:
    count = store.num_documents
    index = DocumentIndex(
        bounds=store.bounds,
        original_bytes=store.original_bytes,
        characters=store.characters,
        languages=store.languages,
        lossless=np.ones(count, dtype=np.bool_),
    )
    old = TokenStore(store.tokens, index, end_id=store.end_id, vocab_size=store.vocab_size)
    with pytest.raises(DataError) as error:
        NextSentence().epoch(old, tokenizer, sequence_length=48, seed=1, epoch=0)
    assert error.value.id == "tasks.no_sources"
    NextSentence(PairSettings(pairs="sentence_order")).epoch(old, tokenizer, sequence_length=48, seed=1, epoch=0)


def test_a_packed_store_knows_the_file_of_each_document(tmp_path: Path) -> None:
    for name, letter in (("a.txt", "a"), ("b.txt", "b")):
        lines = [f"{letter * 3} {number} word" for number in range(40)]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    settings = DataSettings(paths=(str(tmp_path / "a.txt"), str(tmp_path / "b.txt")), document="line")
    build_store(tmp_path / "store", settings, tokenizer_settings=TokenizerSettings(vocab_size=300))
    train = Store.open(tmp_path / "store").train
    assert train.files is not None and len(set(train.files.tolist())) == 2
    tokenizer = Store.open(tmp_path / "store").tokenizer
    letters = [tokenizer.decode(train.document(number).tolist())[0] for number in range(train.num_documents)]
    assert len(set(zip(letters, train.files.tolist(), strict=True))) == 2


# ---- scores ----


def test_accuracy_counts_text_alone_and_is_set_beside_the_most_frequent_token() -> None:
    first = Guesses(
        np.array([-1.0, -2.0, -0.5]), np.array([1, 2, 9]), np.array([1, 7, 9]), np.array([True, True, False])
    )
    second = Guesses(np.array([-0.5]), np.array([1]), np.array([7]), np.array([True]))
    found = scores([first, second], what="targets", counted="text")
    assert (found["loss"].value, found["loss"].count) == (1.0, 4)
    assert (found["accuracy"].value, found["accuracy"].count) == (pytest.approx(1 / 3), 3)
    assert found["unigram_accuracy"].value == pytest.approx(2 / 3)


def test_no_target_is_no_perfect_score_and_no_pair_is_no_score() -> None:
    none = Guesses(np.zeros(0), *(np.zeros(0, dtype=np.int64),) * 2, np.zeros(0, dtype=np.bool_))
    some = Guesses(np.array([-1.0]), np.array([1]), np.array([1]), np.array([True]))
    for task in map(objective, OBJECTIVES):
        with pytest.raises(DataError) as error:
            task.scores([replace(none, pairs=some), none])
        assert error.value.id == "evaluation.no_targets"
    task = objective("next_sentence")
    assert set(task.scores([replace(some, pairs=none)])) == {"loss", "accuracy", "unigram_accuracy"}
    assert task.scores([replace(some, pairs=some)])["pair_loss"].count == 1


# ---- cut-out spans ----


def test_a_text_is_given_back_by_its_rest_and_its_spans(tokenizer: Tokenizer) -> None:
    """Each sentinel of the inputs is replaced by what follows it in the targets."""
    vocabulary, task = Vocabulary.of(tokenizer), SpanCorruption()
    sentinels = [vocabulary.mark([f"<extra_id_{number}>"]) for number in range(100)]
    draw = np.random.default_rng(4)
    for length in (1, 2, 3, 7, 50, 512):
        ids = draw.choice(vocabulary.ordinary, size=length)
        inputs, targets = task.corrupt(ids, vocabulary, np.random.default_rng(length))
        assert inputs[-1] == targets[-1] == tokenizer.end_id
        spans: dict[int, list[int]] = {}
        for id in targets[:-1].tolist():
            if id in sentinels:
                spans[current := id] = []
            else:
                spans[current].append(id)
        assert list(spans) == sentinels[: len(spans)], "in order, each once"
        assert all(spans.values())
        restored = [part for id in inputs[:-1].tolist() for part in spans.get(id, [id])]
        assert restored == ids.tolist()


def brute_force(length: int, density: float, mean: float) -> tuple[int, int]:
    """T5's ``random_spans_helper`` by trying every length of the text: the longest whose inputs fit, its targets."""
    best = (0, 0)
    for tokens in range(1, 3 * length + 20):
        noise = max(1, min(round(tokens * density), tokens - 1))
        spans = max(1, min(round(noise / mean), tokens - noise))
        if tokens - noise + spans + 1 <= length:
            best = (tokens, noise + spans + 1)
    return best


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 2.0), (0.5, 3.0), (0.3, 8.0)])
def test_lengths_are_those_of_t5(density: float, mean: float) -> None:
    task = SpanCorruption(SpanSettings(noise_density=density, mean_span=mean))
    for length in (16, 64, 100, 512):
        lengths = task.lengths(length)
        assert (lengths.tokens, lengths.targets) == brute_force(length, density, mean)
        assert lengths.inputs <= length
    if (density, mean) == (0.15, 3.0):  # the published numbers for 512 columns: 568 tokens, 114 targets
        lengths = task.lengths(512)
        assert (lengths.tokens, lengths.inputs, lengths.targets) == (568, 512, 114)


def test_spans_keep_density_and_mean_without_padding(store: TokenStore, tokenizer: Tokenizer) -> None:
    rows = rows_of(SpanCorruption(), store, tokenizer, 128, epochs=2)
    full = [row for row in rows if (row["attention_mask"] == 1).all()]
    assert len(full) >= len(rows) - 2, "only the last window of an epoch may be padded"
    special = np.array(sorted(tokenizer.special_ids - {tokenizer.end_id}))
    noise = sum(int((~np.isin(row["labels"][:-1], special)).sum()) for row in full)
    spans = sum(int(np.isin(row["labels"][:-1], special).sum()) for row in full)
    tokens = SpanCorruption().lengths(128).tokens * len(full)
    assert noise / tokens == pytest.approx(0.15, abs=0.005)
    assert noise / spans == pytest.approx(3.0, abs=0.2)
    for row in full:
        assert row["decoder_input_ids"][0] == tokenizer.pad_id
        assert (row["decoder_input_ids"][1:] == row["labels"][:-1]).all()


def test_too_few_sentinels_or_columns_are_refused(store: TokenStore, tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError):
        SpanCorruption(SpanSettings(mean_span=1.0)).epoch(store, tokenizer, sequence_length=1000, seed=1, epoch=0)
    for task in (SpanCorruption(), Denoising()):
        with pytest.raises(SettingsError) as error:
            task.lengths(1 if isinstance(task, SpanCorruption) else 2)
        assert error.value.id == "tasks.window"
    for name, least in {"masked_lm": 3, "next_sentence": 4, "span_corruption": 2, "denoising": 3}.items():
        assert len(objective(name).epoch(store, tokenizer, sequence_length=least, seed=1, epoch=0).row(0)) > 2
        with pytest.raises(SettingsError) as error:
            objective(name).epoch(store, tokenizer, sequence_length=least - 1, seed=1, epoch=0)
        assert error.value.id == "tasks.window"


# ---- denoising ----


def test_masks_stand_for_spans_whose_lengths_are_poissons(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.of(tokenizer)
    task = Denoising(DenoisingSettings(permute_rate=0.0))
    mask, start, separator = (vocabulary.mark([name]) for name in ("[MASK]", "[CLS]", "[SEP]"))
    ids = np.resize(vocabulary.ordinary, 50)  # tokens of which none comes twice
    assert len(set(ids.tolist())) == 50
    lengths: list[int] = []
    for seed in range(400):
        inputs, targets = task.corrupt(ids, vocabulary, np.random.default_rng(seed))
        assert targets.tolist() == [start, *ids.tolist(), separator]
        assert (inputs[0], inputs[-1]) == (start, separator)
        rest, place = inputs[1:-1].tolist(), 0
        for number, id in enumerate(rest):
            if id == mask:
                following = rest[number + 1] if number + 1 < len(rest) else None
                assert following != mask, "spans have something between them"
                stop = len(ids) if following is None else ids.tolist().index(following)
                lengths.append(stop - place)
                place = stop
            else:
                assert id == ids[place]
                place += 1
        assert rest.count(mask) == 5
        assert len(rest) - 5 == 35, "30 % are gone"
    values = np.bincount(lengths, minlength=16) / len(lengths)
    binomial = [math.comb(15, k) * 0.2**k * 0.8 ** (15 - k) for k in range(16)]
    assert np.abs(values[:16] - binomial).max() < 5 * math.sqrt(0.25 / len(lengths))
    assert values[0] > 0, "some masks stand for nothing"


@pytest.mark.parametrize("settings", [{}, {"mask_rate": 0.02}, {"mean_span": 40.0}, {"mask_rate": 0.9}], ids=str)
def test_the_columns_of_any_window_are_known(settings: dict[str, float], tokenizer: Tokenizer) -> None:
    """Of the rate of tokens all are gone, where it comes to less than one span too; a shorter window fits as well."""
    task, vocabulary, draws = (
        Denoising(DenoisingSettings(**settings)),
        Vocabulary.of(tokenizer),
        np.random.default_rng(4),
    )
    ids = np.array(tokenizer.encode("a quick fox. " * 40))[:80]
    most = 0
    for tokens in range(1, 81):
        known = task.lengths(tokens + 2)
        damaged, whole = task.corrupt(ids[:tokens], vocabulary, draws)
        kept = int((damaged != vocabulary.mark(MASK)).sum()) - 2
        assert (known.tokens, known.inputs) == (tokens, len(damaged)) and len(whole) == tokens + 2
        assert tokens - kept == round(tokens * task.settings.mask_rate)
        assert known.inputs >= most
        most = known.inputs


def test_sentences_are_permuted_inside_their_documents(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.of(tokenizer)
    task = Denoising(DenoisingSettings(mask_rate=0.0))
    documents = texts(3, 5, LETTERS)
    ids = np.array([id for text in documents for id in (*tokenizer.encode(text), tokenizer.end_id)])
    orders = set()
    for seed in range(20):
        inputs, targets = task.corrupt(ids, vocabulary, np.random.default_rng(seed))
        assert targets[1:-1].tolist() == ids.tolist()
        moved = inputs[1:-1].tolist()
        for text in documents:
            stop = moved.index(tokenizer.end_id)
            found = tokenizer.decode(moved[:stop])
            assert sorted(found.split(".")) == sorted(text.split("."))
            orders.add(found)
            moved = moved[stop + 1 :]
    assert len(orders) > 50
    still = Denoising(DenoisingSettings(mask_rate=0.0, permute_rate=0.0))
    inputs, _ = still.corrupt(ids, vocabulary, np.random.default_rng(0))
    assert inputs[1:-1].tolist() == ids.tolist()
