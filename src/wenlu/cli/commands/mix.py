"""``wenlu mix MODEL_A MODEL_B --data STORE -o DIR``: two models of one tokenizer as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.core.errors import DataError, RequestError, TokenizerError
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.bundle import Bundle
    from wenlu.data.store import Store

DEFAULT_CONTEXT = 256
DEFAULT_MAX_TOKENS = 131_072


@output.command("mix")
@output.argument("mix", "first", metavar="MODEL_A")
@output.argument("mix", "second", metavar="MODEL_B")
@output.option("mix", "--data", required=True, metavar="STORE")
@output.option("mix", "-o", "--output", "target", required=True, metavar="DIR")
@output.option("mix", "--context", type=int, default=DEFAULT_CONTEXT)
@output.option("mix", "--max-tokens", type=int, default=DEFAULT_MAX_TOKENS)
@output.option("mix", "--replace", is_flag=True)
@output.run
def command(first: str, second: str, data: str, target: str, context: int, max_tokens: int, replace: bool) -> None:
    """Fit the weights on the store's validation documents and write the mixture."""
    from wenlu.bundle import load_bundle, save_bundle
    from wenlu.core.publication import check_target, publish
    from wenlu.data.store import Store
    from wenlu.evaluation.documents import sample_documents, store_documents
    from wenlu.evaluation.mixing import fit_mixture
    from wenlu.evaluation.scoring import Windows
    from wenlu.models.mixture import Mixture

    path = Path(target)
    check_target(path, replace=replace)
    if max_tokens < 0:
        raise RequestError("evaluation.limit", found=max_tokens)
    store = Store.open(Path(data))
    if store.validation.num_tokens == 0:
        raise DataError("mixture.no_validation", path=data)
    bundles = [load_bundle(name) for name in (first, second)]
    _check_tokenizers(bundles, store)
    models = [bundle.language_model for bundle in bundles]
    limit = max_tokens or store.validation.num_tokens
    documents = sample_documents(store_documents(store.validation), limit)
    limits = [model.max_positions for model in models if model.max_positions is not None]
    context = min([context, *limits])
    windows = Windows(context=context, stride=max(1, context // 2))
    context_id = store.tokenizer.context_id
    mixed = fit_mixture(models, documents, names=(first, second), context_id=context_id, windows=windows)
    fitted = mixed.fitted
    mixture = Mixture([bundle.model for bundle in bundles], fitted.weights)
    provenance = {"first": first, "second": second, "data": store.train.fingerprint}

    def write(directory: Path) -> None:
        save_bundle(directory, model=mixture, tokenizer=store.tokenizer, provenance=provenance)

    publish(path, write, replace=replace)
    losses = [*fitted.component_losses, fitted.loss]
    bits = [mixed.bits_per_byte(loss) for loss in losses]
    made = {"path": str(path), "models": [first, second], "weights": list(fitted.weights)}
    counts = {"documents": mixed.documents, "tokens": fitted.tokens, "context": context}
    record = {**made, "losses": losses, "bits_per_byte": bits, **counts}
    shown = [*(f"{weight:.3f}" for weight in fitted.weights), ""]
    names = [first, second, text("mixture.mixed")]
    rows = [
        (name, weight, f"{loss:.4f}", f"{bit:.4f}")
        for name, weight, loss, bit in zip(names, shown, losses, bits, strict=True)
    ]
    columns = [text(f"mixture.column_{name}") for name in ("model", "weight", "loss", "bits")]
    title = text("mixture.title", **counts)
    footer = text("mixture.written", path=path) + "\n" + text("mixture.on_fitting_text") + "\n"
    output.result(record, text=footer, table=output.table(columns, rows, title=title))


def _check_tokenizers(bundles: Sequence[Bundle], store: Store) -> None:
    """Refuse models, or a store, of different tokenizers."""
    expected = bundles[0].tokenizer.fingerprint
    others = [(bundles[1].path, bundles[1].tokenizer.fingerprint), (store.path, store.tokenizer.fingerprint)]
    for path, fingerprint in others:
        if fingerprint != expected:
            digests = {"first_fingerprint": expected[:12], "second_fingerprint": fingerprint[:12]}
            raise TokenizerError("mixture.tokenizers", first=bundles[0].path, second=path, **digests)
