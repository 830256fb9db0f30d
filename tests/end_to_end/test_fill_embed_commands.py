"""``wenlu fill`` and ``wenlu embed`` as a user calls them, on small random encoders, and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import wenlu as package
from tiny_tokenizers import tiny
from wenlu.bundle import load_bundle, save_bundle
from wenlu.cli.main import main
from wenlu.generation.embedding import Pooling, pool
from wenlu.generation.fill import fill
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.kinds import TokenizerKind, TokenizerSettings
from wenlu.tokenization.masks import encode_masked, unmasked

SPECIAL = ("[MASK]", "[CLS]", "[SEP]")
TEXT = "The quick [MASK] fox jumps over the lazy [MASK]."


def make(folder: Path, kind: str, words: TokenizerKind, special: tuple[str, ...] = SPECIAL) -> Path:
    """A model directory whose every parameter is random."""
    tokenizer = tiny(words, TokenizerSettings(kind=words, vocab_size=420, special_tokens=special))
    settings = ModelSettings(kind=kind, num_layers=1, hidden_size=16, num_heads=2)
    model = build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=24, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    folder.mkdir()
    save_bundle(folder, model=model, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bert`` (WordPiece), ``roberta`` (BPE), ``bare`` without special tokens, ``gpt2``."""
    folder = tmp_path_factory.mktemp("encoders")
    make(folder / "bert", "bert", "wordpiece")
    make(folder / "roberta", "roberta", "bpe")
    make(folder / "bare", "bert", "bpe", ())
    make(folder / "gpt2", "gpt2", "bpe")
    return folder


@pytest.fixture(autouse=True)
def at_home(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def wenlu(*words: str, stdin: str | bytes = "", code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refusal(*words: str, stdin: str | bytes = "") -> str:
    """The id of the error that ends a command with code 2."""
    shown = wenlu(*words, "--json", stdin=stdin, code=2).stderr
    [line] = [line for line in shown.splitlines() if line.startswith('{"error"')]
    return json.loads(line)["error"]["id"]


def test_fill_shows_what_may_stand_in_each_mask() -> None:
    record = json.loads(wenlu("fill", TEXT, "--model", "bert", "--top", "3", "--json").stdout)
    [found] = record["texts"]
    first, second = found["masks"]
    assert (found["text"], TEXT[first["start"] : first["end"]]) == (TEXT, "[MASK]")
    for mask, other in ((first, second), (second, first)):
        assert len(mask["guesses"]) == 3
        probabilities = [guess["probability"] for guess in mask["guesses"]]
        assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) < 1
        for guess in mask["guesses"]:
            assert guess["text"].count("[MASK]") == 1 and guess["token"].removeprefix("##") in guess["text"]
        assert other["guesses"][0]["token"].removeprefix("##") in found["filled"]
    assert all("[MASK]" in guess["text"][:17] for guess in second["guesses"])  # each text is filled at its own mask
    assert all("[MASK]" in guess["text"][-9:] for guess in first["guesses"])
    assert "[MASK]" not in found["filled"]
    shown = wenlu("fill", TEXT, "--model", "bert", "--top", "3").stdout
    assert found["filled"] in shown and "mask 2 of 2" in shown
    assert f"{100 * first['guesses'][0]['probability']:.4g}%" in shown
    python = package.load("bert").fill(TEXT, top=3)
    assert [guess.id for guess in python.masks[1].guesses] == [guess["id"] for guess in second["guesses"]]


def test_fill_takes_every_token_when_asked_for_more_than_there_are() -> None:
    record = json.loads(wenlu("fill", "[MASK]", "--model", "bert", "--top", "9999", "--json").stdout)
    guesses = record["texts"][0]["masks"][0]["guesses"]
    assert sum(guess["probability"] for guess in guesses) == pytest.approx(1, abs=1e-5)
    assert len({guess["id"] for guess in guesses}) == len(guesses) == len(load_bundle("bert").tokenizer.ids())


def test_texts_come_from_arguments_a_file_or_standard_input(tmp_path: Path) -> None:
    texts = ["the [MASK] dog", "文炉是[MASK]个模型"]
    (tmp_path / "texts.txt").write_text("\r\n".join(texts), encoding="utf-8")
    rows = [json.dumps({"body": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    ways = [
        (texts, ""),
        (["-"], "\n".join(texts) + "\n"),
        (["--file", str(tmp_path / "texts.txt")], ""),
        (["--file", str(tmp_path / "texts.jsonl"), "--text-field", "body"], ""),
    ]
    found = [
        json.loads(wenlu("fill", *words, "--model", "bert", "--json", stdin=stdin).stdout) for words, stdin in ways
    ]
    assert [entry["text"] for entry in found[0]["texts"]] == texts
    assert found[0] == found[1] == found[2] == found[3]
    assert refusal("fill", "--model", "bert") == refusal("fill", "-", "--model", "bert") == "generation.no_texts"
    assert refusal("embed", "a", "--file", "texts.txt") == "generation.texts_twice"
    assert refusal("embed", "a", "--encoding", "gb18030") == "generation.no_file"
    assert refusal("embed", "-", stdin=b"\xff") == "generation.input_not_utf8"
    (tmp_path / "null.jsonl").write_text('{"text": null}\n', encoding="utf-8")
    assert refusal("embed", "--file", str(tmp_path / "null.jsonl")) == "data.row_without_text"
    assert refusal("embed", "--file", str(tmp_path / "*.jsonl")) == "data.one_file"


def test_fill_refuses_what_it_cannot_do(chinese: None) -> None:
    assert refusal("fill", "no mask", "--model", "bert") == "generation.no_mask"
    assert refusal("fill", TEXT, "--top", "0", "--model", "bert") == "generation.top"
    assert refusal("fill", TEXT, "--model", "gpt2") == "models.not_masked"
    assert refusal("fill", TEXT, "--model", "bare") == "tokenization.no_mask_token"
    assert refusal("fill", "a [MASK]", "a " * 40 + "[MASK]", "--model", "bert") == "generation.masked_too_long"
    assert "wenlu generate" in wenlu("fill", TEXT, "--model", "gpt2", code=2).stderr


def test_an_encoder_is_told_what_it_can_do_instead(tmp_path: Path) -> None:
    for words in (["generate", "a"], ["score", "a"]):
        shown = wenlu(*words, "--model", "bert", code=2).stderr
        assert "wenlu fill" in shown and "wenlu embed" in shown and "bert" in shown
    model = package.load("bert")
    for call in (model.generate, model.score):
        with pytest.raises(package.WenluError, match="wenlu fill"):
            call("a")
    (tmp_path / "bert").mkdir()
    for path in Path("bert").iterdir():
        if path.name != "wenlu.toml":
            (tmp_path / "bert" / path.name).write_bytes(path.read_bytes())
    assert load_bundle(tmp_path / "bert").task == load_bundle("bert").task == "masked_lm"
    assert load_bundle("gpt2").task == "causal_lm"


def test_no_special_token_but_the_mask_can_be_written() -> None:
    tokenizer = load_bundle("roberta").tokenizer
    masked = encode_masked(tokenizer, "a [SEP] [CLS]  [MASK] b")
    assert masked.ids.count(tokenizer.mask_id) == 1
    assert not {tokenizer.cls_id, tokenizer.sep_id} & set(masked.ids)
    assert masked.spans == ((13, 21),)  # with both blanks before it
    assert tokenizer.with_special_tokens([9]).ids == [tokenizer.cls_id, 9, tokenizer.sep_id]


@pytest.mark.parametrize(
    ("kind", "text", "token", "expected"),
    [
        ("wordpiece", "It is [MASK].", "fox", "It is fox."),
        ("wordpiece", "It is [MASK].", "##x", "It isx."),
        ("bpe", "It is [MASK].", " the", "It is the."),
        ("bpe", "It is  [MASK].", "a", "It isa."),
        ("bpe", "[MASK] it", " the", "the it"),
        ("characters", "It is [MASK].", " ", "It is ."),
        ("characters", "我[MASK]你", "文", "我文你"),
        ("unigram", "It is [MASK].", "[SEP]", "It is[SEP]."),
    ],
)
def test_a_token_is_put_where_the_mask_was(kind: TokenizerKind, text: str, token: str, expected: str) -> None:
    tokenizer = tiny(kind, TokenizerSettings(kind=kind, vocab_size=420, special_tokens=SPECIAL))
    ids = {tokenizer.token(id): id for id in tokenizer.ids()}
    masked = encode_masked(tokenizer, text)
    assert unmasked(tokenizer, masked, {0: ids[token]}) == expected
    assert unmasked(tokenizer, masked, {}) == text


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_many_texts_are_filled_together_as_each_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths and numbers of masks differ; padding changes a probability by a few units of float32's 1e-7 at most."""
    monkeypatch.setattr("wenlu.generation.batches.TOKENS_PER_BATCH_ON_CPU", 100)
    monkeypatch.setattr("wenlu.generation.fill._MASKS_AT_ONCE", 3)
    words = ["the", "[MASK]", "fox", "over", "[MASK]", "dog", "你好"]
    texts = [" ".join([*words[number % 3 : 2 + number % 6], "[MASK]"]) for number in range(30)]
    bundle = load_bundle(kind)
    hidden, rows = bundle.model.hidden, []

    def counted(ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
        rows.append(len(ids))
        return hidden(ids, **kwargs)

    monkeypatch.setattr(bundle.model, "hidden", counted)
    together = fill(bundle.model, bundle.tokenizer, texts)
    assert sum(rows) == len(texts) and len(rows) < len(texts) / 3
    for text, found in zip(texts, together, strict=True):
        [alone] = fill(bundle.model, bundle.tokenizer, [text])
        assert found.text == text and len(found.masks) == text.count("[MASK]")
        assert [mask.start for mask in found.masks] == [mask.start for mask in alone.masks]
        for mask, one in zip(found.masks, alone.masks, strict=True):
            assert [guess.id for guess in mask.guesses] == [guess.id for guess in one.guesses]
            pairs = zip(mask.guesses, one.guesses, strict=True)
            assert max(abs(guess.probability - other.probability) for guess, other in pairs) <= 1e-6


def test_embed_writes_the_same_vectors_in_every_form(tmp_path: Path) -> None:
    texts = ["The quick brown fox", "文炉", "a"]
    lines = wenlu("embed", *texts, "--model", "bert").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert [row["text"] for row in rows] == texts
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    record = json.loads(wenlu("embed", *texts, "--model", "bert", "-o", str(tmp_path / "v.npy"), "--json").stdout)
    assert (record["texts"], record["dimensions"], record["pooling"], record["cut"]) == (3, 16, "mean", 0)
    assert "embeddings" not in record
    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)
    shown = wenlu("embed", *texts, "--model", "bert", "-o", str(tmp_path / "v.jsonl")).stdout
    assert str(tmp_path / "v.jsonl") in shown and (tmp_path / "v.jsonl").read_text("utf-8").splitlines() == lines
    record = json.loads(wenlu("embed", *texts, "--model", "bert", "--json").stdout)
    assert np.array_equal(np.array(record["embeddings"], dtype=np.float32), vectors)
    model = package.load("bert")
    assert np.array_equal(model.embed(texts), vectors)
    assert model.embed(texts[0]).shape == (16,)
    assert refusal("embed", "a", "--model", "bert", "-o", "v.txt") == "generation.embedding_suffix"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.jsonl", "v.npy"]


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[2.0, 3.0], [5.0, 6.0]]), ("first", [[1.0, 2.0], [5.0, 6.0]])]
)
def test_pooling_by_hand(pooling: Pooling, expected: list[list[float]]) -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[7.0, 7.0], [5.0, 6.0], [8.0, 8.0]]])
    mask = torch.tensor([[True, True, False], [False, True, False]])  # the second row is padded on both sides
    assert pool(states, mask, pooling).tolist() == expected


def test_what_is_too_long_is_refused_or_cut_and_counted() -> None:
    long = "quick fox " * 30
    assert refusal("embed", "a", long, "--model", "bert") == "generation.texts_too_long"
    shown = wenlu("embed", "a", long, "--model", "bert", "--truncate", "--json")
    record = json.loads(shown.stdout)
    assert record["cut"] == 1 and "1 of 2 texts" in shown.stderr
    tokenizer = load_bundle("bert").tokenizer
    ids = tokenizer.with_special_tokens(tokenizer.encode(long)[:22]).ids
    with torch.no_grad():
        expected = load_bundle("bert").model.encode(torch.tensor([ids]))[0].mean(dim=0)  # type: ignore[operator]
    assert np.allclose(record["embeddings"][1], expected / expected.norm(), atol=1e-5)


def test_the_folder_says_how_to_pool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path / "model", "bert", "wordpiece")
    model = package.load(folder)
    texts = ["The quick brown fox", "a model"]
    (folder / "1_Pooling").mkdir()
    config = folder / "1_Pooling" / "config.json"
    for name, pooling in (("cls_token", "first"), ("mean_tokens", "mean")):
        switches = {f"pooling_mode_{key}": key == name for key in ("cls_token", "mean_tokens", "max_tokens")}
        config.write_text(json.dumps({"word_embedding_dimension": 16, **switches}), encoding="utf-8")
        assert np.array_equal(model.embed(texts), model.embed(texts, pooling=pooling))
    config.write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": "cls"}), encoding="utf-8")
    assert np.array_equal(model.embed(texts), model.embed(texts, pooling="first"))
    assert not np.allclose(model.embed(texts, pooling="mean"), model.embed(texts, pooling="first"), atol=0.01)
    config.write_text(json.dumps({"pooling_mode_max_tokens": True}), encoding="utf-8")
    assert refusal("embed", "a", "--model", str(folder)) == "generation.pooling_unknown"
    wenlu("embed", "a", "--model", str(folder), "--pooling", "mean")
    config.write_text("[", encoding="utf-8")
    assert refusal("embed", "a", "--model", str(folder)) == "generation.bad_json"
    config.unlink()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}', encoding="utf-8")
    assert refusal("embed", "the quick brown", "--model", str(folder)) == "generation.texts_too_long"
    dense = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(dense), encoding="utf-8")
    wenlu("embed", "a", "--model", str(folder))
    assert "Dense" in caplog.text


def test_a_folder_may_ask_for_small_letters(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "roberta", "bpe")
    model = package.load(folder)
    small = model.embed("the model")
    assert not np.array_equal(model.embed("The MODEL"), small)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    assert np.array_equal(model.embed("The MODEL"), small)


def test_how_to_pool_survives_import_and_export(tmp_path: Path) -> None:
    folder = make(tmp_path / "theirs", "bert", "wordpiece")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}', encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}', encoding="utf-8")
    record = json.loads(wenlu("import", str(folder), "-o", str(tmp_path / "ours"), "--json").stdout)
    assert record["files_left"] == []
    wenlu("export", str(tmp_path / "ours"), "-o", str(tmp_path / "back"))
    expected = package.load(folder).embed(TEXT[:9], pooling="first")
    for name in ("ours", "back"):
        assert np.array_equal(package.load(tmp_path / name).embed(TEXT[:9]), expected)
        assert refusal("embed", "a " * 8, "--model", str(tmp_path / name)) == "generation.texts_too_long"


def test_embed_refuses_what_it_cannot_do() -> None:
    assert refusal("embed", "a", "--model", "gpt2") == "models.no_text_encoder"
    assert refusal("embed", "a", "", "--model", "bare") == "generation.nothing_to_embed"
    bundle = load_bundle("bert")
    with torch.no_grad():
        next(bundle.model.parameters()).fill_(float("nan"))
    for ask, id in ((package.Model.embed, "embedding_not_finite"), (package.Model.fill, "mask_not_finite")):
        with pytest.raises(package.WenluError) as caught:
            ask(package.Model(bundle), "a [MASK]")
        assert caught.value.id == f"generation.{id}"
