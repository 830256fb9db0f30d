"""Modified interpolated Kneser-Ney written a second time, slowly, with dictionaries of tuples, straight from the paper.

Chen and Goodman 1998 (TR-10-98), section 3: equations 15 to 17 interpolated, written recursively as printed. It shares
no code with the model. Documents are lists of tokens that end with the end token; ``START`` stands for what is before a
document here, so that start and end differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import cached_property

START = "<s>"
Gram = tuple[Hashable, ...]


class Reference:
    """p(token | context) by definition; ``context`` begins with START when it reaches back to the document's start."""

    def __init__(self, documents: Sequence[Sequence[int]], *, order: int, vocab_size: int) -> None:
        self.order = order
        self.vocab_size = vocab_size
        self.plain: Counter[Gram] = Counter()
        for document in documents:
            line = [START, *document]
            for end in range(2, len(line) + 1):
                for length in range(1, min(order, end) + 1):
                    self.plain[tuple(line[end - length : end])] += 1
        self.tables = [self._adjusted(length) for length in range(1, order + 1)]
        self.discounts = [self._discounts(table) for table in self.tables]

    def probability(self, token: int, context: Sequence[Hashable]) -> float:
        """The recursion of the paper, from the longest context that is allowed down to the uniform distribution."""
        context = tuple(context)[max(0, len(context) - self.order + 1) :]
        return self._interpolated(token, context)

    def _interpolated(self, token: int, context: Gram) -> float:
        lower = self._interpolated(token, context[1:]) if context else 1 / self.vocab_size
        followers = self.followers[len(context)].get(context, {})
        if not followers:
            return lower
        d1, d2, d3 = self.discounts[len(context)]
        total = sum(followers.values())
        classes = Counter(min(count, 3) for count in followers.values())
        gamma = (d1 * classes[1] + d2 * classes[2] + d3 * classes[3]) / total
        count = followers.get(token, 0)
        discount = {0: 0.0, 1: d1, 2: d2}.get(count, d3)
        return max(count - discount, 0.0) / total + gamma * lower

    @cached_property
    def followers(self) -> list[dict[Gram, dict[Hashable, int]]]:
        """For each order: context -> token -> adjusted count."""
        found: list[dict[Gram, dict[Hashable, int]]] = []
        for table in self.tables:
            by_context: dict[Gram, dict[Hashable, int]] = defaultdict(dict)
            for gram, count in table.items():
                by_context[gram[:-1]][gram[-1]] = count
            found.append(dict(by_context))
        return found

    def _adjusted(self, length: int) -> dict[Gram, int]:
        grams = [gram for gram in self.plain if len(gram) == length]
        if length == self.order:
            return {gram: self.plain[gram] for gram in grams}
        before: dict[Gram, set[Hashable]] = defaultdict(set)
        for longer in self.plain:
            if len(longer) == length + 1:
                before[longer[1:]].add(longer[0])
        return {gram: self.plain[gram] if gram[0] == START else len(before[gram]) for gram in grams}

    @staticmethod
    def _discounts(table: dict[Gram, int]) -> tuple[float, float, float]:
        n = Counter(table.values())
        y = n[1] / (n[1] + 2 * n[2])
        return 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]
