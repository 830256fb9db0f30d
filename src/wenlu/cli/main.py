"""``wenlu``: the table of verbs. A verb's module is imported when it is asked for."""

from __future__ import annotations

from wenlu.cli.parsing import LazyGroup, telling
from wenlu.core.version import __version__


def _modules(group: str, *verbs: str) -> dict[str, str]:
    """The module of each verb of a group: its name; Python keeps ``import`` for itself."""
    return {verb: f"wenlu.cli.commands.{group}{'import_' if verb == 'import' else verb}" for verb in verbs}


TOKENIZER = _modules("tokenizer_", "train", "inspect", "compare")
DATA = _modules("data_", "inspect", "lint", "pack", "fetch")
VERBS: dict[str, str | LazyGroup] = {
    **_modules("", "demo"),
    "tokenizer": LazyGroup("tokenizer", TOKENIZER),
    "data": LazyGroup("data", DATA),
    **_modules("", "plan", "train", "finetune", "predict"),
    **_modules("", "evaluate", "compare", "score", "generate", "fill", "embed", "mix"),
    **_modules("", "import", "export", "merge", "parity", "describe", "doctor"),
}
main = LazyGroup("wenlu", VERBS)
main.params.append(telling("--version", say=lambda context: f"wenlu {__version__}"))
