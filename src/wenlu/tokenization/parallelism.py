"""The threads of the ``tokenizers`` library, and processes that fork beside them."""

from __future__ import annotations

import functools
import os

VARIABLE = "TOKENIZERS_PARALLELISM"


@functools.cache
def make_forks_safe() -> None:
    """Have forked children encode on one thread, as the parent's threads do not exist in them.

    Without this the library warns on standard error or, told that parallelism is wanted, waits for ever. A value that
    the user gave ``TOKENIZERS_PARALLELISM`` stays in force.
    """
    if not hasattr(os, "register_at_fork"):
        return

    added = False

    def before() -> None:
        nonlocal added
        added = VARIABLE not in os.environ
        if added:
            os.environ[VARIABLE] = "false"

    def after_in_parent() -> None:
        if added:
            os.environ.pop(VARIABLE, None)

    os.register_at_fork(before=before, after_in_parent=after_in_parent)
