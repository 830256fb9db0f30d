"""The models of ``wenlu data fetch`` against transformers reading the same files.

Both compute in float32 from the same numbers (those of the GGUF file de-quantised by the same package), so the
tolerance is that of every family: 1e-5 of the largest logit, over thirty layers. What transformers answers to the five
questions is kept in ``smollm2_answers.json``, as its reading of GGUF takes long; ``make nightly`` computes it again.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
import transformers

from skips import needs_model
from wenlu.bundle import Bundle, load_bundle
from wenlu.generation.text import complete, prepare_chat
from wenlu.tokenization.chat import Message, encode_chat

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOLERANCE = 1e-5
NEW_TOKENS = 32
QUESTIONS = (
    "What is the capital of France?",
    "How many legs does a spider have?",
    "Name three colours of the rainbow.",
    "Write one sentence about the sea.",
    "What is 7 plus 5?",
)
ANSWERS = Path(__file__).with_name("smollm2_answers.json")


@functools.cache
def load(path: Path) -> Bundle:
    return load_bundle(path)


@pytest.fixture
def smollm2() -> Bundle:
    return load(needs_model("smollm2"))


def answer(bundle: Bundle, question: str) -> tuple[list[int], list[int]]:
    """The prompt's ids and the greedy tokens."""
    settings = bundle.generation.replace(do_sample=False, max_new_tokens=NEW_TOKENS)
    prompt = prepare_chat(bundle.tokenizer, [Message("user", question)], settings, max_positions=8192)
    [completion] = complete(bundle.language_model, bundle.tokenizer, prompt, settings)
    return list(prompt.ids), list(completion.ids)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_chat_model_answers_as_in_transformers(smollm2: Bundle, question: str) -> None:
    expected = json.loads(ANSWERS.read_text(encoding="utf-8"))[question]
    prompt, answered = answer(smollm2, question)
    assert prompt == expected["prompt"]
    assert answered == expected["answer"]


@pytest.mark.nightly
def test_transformers_reads_the_same_logits_and_answers(smollm2: Bundle) -> None:
    """Greedy search of transformers, checked with one pass: at each place the most probable token is the next one."""
    path = smollm2.path
    options = {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), dtype=torch.float32, **options).eval()
    said = {}
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(encode_chat(smollm2.tokenizer, [Message("user", question)]).ids) == prompt
        _, answered = answer(smollm2, question)
        ids = torch.tensor([[*prompt, *answered]])
        with torch.no_grad():
            expected, found = model(ids).logits[0], smollm2.model(ids)[0]
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
        chosen = expected[len(prompt) - 1 : -1].argmax(dim=-1).tolist()
        assert answered == chosen
        assert len(answered) == NEW_TOKENS or answered[-1] == tokenizer.eos_token_id
        said[question] = {"prompt": prompt, "answer": chosen}
    assert said == json.loads(ANSWERS.read_text(encoding="utf-8"))


SENTENCES = (
    "A small sentence.",
    "",
    "文炉是一个语言模型工作台。It's naïve: Café № 5, [MASK] and [SEP] as they are written!",
    "The sea is a vast and mysterious realm. " * 70,
)


def test_the_encoder_computes_the_hidden_states_of_transformers() -> None:
    """Right and left padding, the pooler, and the ids; one text is longer than the 512 positions and cut there.

    transformers counts positions from the padding on unless it is told; the model was trained on those of the text.
    """
    bundle = load(needs_model("minilm"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(bundle.path))
    model = transformers.AutoModel.from_pretrained(str(bundle.path)).eval()
    special = bundle.tokenizer.with_special_tokens
    ids = [special(bundle.tokenizer.encode(text)[:510]).ids for text in SENTENCES[:2] + SENTENCES[3:]]
    assert ids == [tokenizer(text, truncation=True)["input_ids"] for text in SENTENCES[:2] + SENTENCES[3:]]
    for side in ("right", "left"):
        batch = tokenizer(list(SENTENCES), padding=True, truncation=True, padding_side=side, return_tensors="pt")
        mask = batch["attention_mask"].bool()
        with torch.no_grad():
            expected = model(**batch, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0))
            found = bundle.model.hidden(batch["input_ids"], mask=mask)  # type: ignore[operator]
            pooled = bundle.model.head.pooled(found, mask)  # type: ignore[operator, union-attr]
        largest = expected.last_hidden_state[mask].abs().max()
        assert (found - expected.last_hidden_state)[mask].abs().max() <= TOLERANCE * largest
        if side == "right":  # transformers pools the first position, padding or not
            assert (pooled - expected.pooler_output).abs().max() <= TOLERANCE
