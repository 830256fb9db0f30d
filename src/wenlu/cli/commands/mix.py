"""``wenlu mix MODEL_A MODEL_B --data STORE -o DIR``: two models of one tokenizer as one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from wenlu.cli import output
from wenlu.core.errors import DataError, RequestError, TokenizerError
from wenlu.core.messages import text

DEFAULT_CONTEXT = 256
DEFAULT_MAX_TOKENS = 131_072


@output.command("mix")
def command(
    first: Annotated[str, "MODEL_A"],
    second: Annotated[str, "MODEL_B"],
    *,
    data: Annotated[str, "STORE"],
    target: Annotated[str, "-o", "--output", "DIR"],
    context: int = DEFAULT_CONTEXT,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    replace: bool = False,
) -> None:
    """Fit the weights on the store's validation documents and write the mixture."""
    from wenlu.bundle import load_bundle, save_bundle
    from wenlu.core.publication import check_target, publish
    from wenlu.data.store import Store
    from wenlu.evaluation.documents import sample_documents, store_documents
    from wenlu.evaluation.mixing import fit_mixture
    from wenlu.evaluation.scoring import Windows
    from wenlu.metrics.language_model import bits_per_byte
    from wenlu.models.mixture import Mixture

    check_target(Path(target), replace=replace)
    if max_tokens < 0:
        raise RequestError("evaluation.limit", found=max_tokens)
    store = Store.open(Path(data))
    if store.validation.num_tokens == 0:
        raise DataError("mixture.no_validation", path=data)
    bundles = [load_bundle(name) for name in (first, second)]
    expected = bundles[0].tokenizer.fingerprint
    for path, tokenizer in ((bundles[1].path, bundles[1].tokenizer), (store.path, store.tokenizer)):
        if tokenizer.fingerprint != expected:
            digests = {"first_fingerprint": expected[:12], "second_fingerprint": tokenizer.fingerprint[:12]}
            raise TokenizerError("mixture.tokenizers", first=bundles[0].path, second=path, **digests)
    models = [bundle.language_model for bundle in bundles]
    limit = max_tokens or store.validation.num_tokens
    documents = sample_documents(store_documents(store.validation), limit)
    limits = [model.max_positions for model in models if model.max_positions is not None]
    context = min([context, *limits])
    windows = Windows(context=context, stride=max(1, context // 2))
    context_id = store.tokenizer.context_id
    fitted = fit_mixture(models, documents, names=(first, second), context_id=context_id, windows=windows)
    mixture = Mixture([bundle.model for bundle in bundles], fitted.weights)
    provenance = {"first": first, "second": second, "data": store.train.fingerprint}
    write = partial(save_bundle, model=mixture, tokenizer=store.tokenizer, provenance=provenance)
    publish(Path(target), write, replace=replace)
    losses = [*fitted.component_losses, fitted.loss]
    num_bytes = sum(document.num_bytes for document in documents)
    bits = [bits_per_byte(loss * fitted.tokens, num_bytes) for loss in losses]
    made = {"path": str(Path(target)), "models": [first, second], "weights": list(fitted.weights)}
    counts = {"documents": len(documents), "tokens": fitted.tokens, "context": context}
    record = {**made, "losses": losses, "bits_per_byte": bits, **counts}
    shown = [*(f"{weight:.3f}" for weight in fitted.weights), ""]
    parts = zip([first, second, text("mixture.mixed")], shown, losses, bits, strict=True)
    rows = [(name, weight, f"{loss:.4f}", f"{bit:.4f}") for name, weight, loss, bit in parts]
    table = output.table("mixture", ("model", "weight", "loss", "bits"), rows, title=text("mixture.title", **counts))
    footer = f"{text('mixture.written', path=Path(target))}\n{text('mixture.on_fitting_text')}\n"
    output.result(record, text=footer, table=table)
