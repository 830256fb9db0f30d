"""Where the documents come from: one split of a token store, or text files; the same texts for every tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import notice, warn
from wenlu.data.files import find_files
from wenlu.data.report import Report
from wenlu.data.store import SPLITS, Split, Store
from wenlu.evaluation.documents import EvaluationText, TokenizedDocument, encode_texts, file_texts, store_documents
from wenlu.tokenization.tokenizer import Tokenizer

DEFAULT_SPLIT: Split = "validation"


def open_corpus(data: Sequence[str], *, split: str | None = None) -> Corpus:
    """The corpus in these files or folders, or in this one token store.

    Raises:
        DataError: ``evaluation.empty_split``, or whatever is wrong with the store.
            ``data.missing_file`` and others for what are no files of text.
        SettingsError: ``evaluation.split_unread`` when text files are given with a split.
    """
    if len(data) == 1 and Store.is_store(Path(data[0])):
        return StoreCorpus(Path(data[0]), split or DEFAULT_SPLIT)
    if split is not None:
        raise SettingsError("evaluation.split_unread", split=split, path=data[0])
    find_files(data, Report())  # which a scorer would ask for only when its turn comes
    return FilesCorpus(data)


class StoreCorpus:
    """One split of a token store, which names the reports."""

    def __init__(self, path: Path, split: str) -> None:
        assert split in SPLITS, "the command line offers the splits only"
        self.store = Store.open(path)
        self.name = split
        self.tokens = self.store.split(split)
        if not self.tokens.num_documents:
            sizes = {name: self.store.split(name).num_documents for name in SPLITS}
            shown = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise DataError("evaluation.empty_split", path=path, split=split, sizes=shown)

    def record(self) -> dict[str, object]:
        """Path, split and fingerprint."""
        return {"store": str(self.store.path), "split": self.name, "fingerprint": self.tokens.fingerprint}

    def fits(self, tokenizer: Tokenizer) -> bool:
        """Whether the store was made with this tokenizer."""
        return tokenizer.fingerprint == self.store.tokenizer.fingerprint

    def num_tokens(self, tokenizer: Tokenizer) -> int | None:
        """Tokens of the split, if they are this tokenizer's."""
        return self.tokens.num_tokens if self.fits(tokenizer) else None

    def documents(self, tokenizer: Tokenizer) -> Iterator[TokenizedDocument]:
        """The stored ids, or for another tokenizer the texts encoded anew."""
        if self.fits(tokenizer):
            return store_documents(self.tokens)
        notice("evaluation.other_tokenizer")
        return encode_texts(self.texts(), tokenizer)

    def texts(self) -> Iterator[EvaluationText]:
        """The texts that the ids decode to; documents whose ids do not give the text back are left out, and it is said.

        Raises:
            DataError: ``evaluation.no_texts`` when none is left.
        """
        left_out = int((~self.tokens.lossless).sum())
        if left_out == self.tokens.num_documents:
            raise DataError("evaluation.no_texts", path=self.store.path, split=self.name)
        if left_out:
            warn("evaluation.texts_left_out", count=left_out, total=self.tokens.num_documents, path=self.store.path)
        for number in range(self.tokens.num_documents):
            if self.tokens.lossless[number]:
                yield EvaluationText(
                    self.store.tokenizer.decode(self.tokens.document(number)[:-1].tolist()),
                    int(self.tokens.original_bytes[number]),
                    self.tokens.language(number),
                    None if self.tokens.files is None else str(self.tokens.files[number]),
                )


class FilesCorpus:
    """Text files, read as for a token store, all of them; the first one names the reports."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.name = Path(paths[0]).stem or "text"

    def record(self) -> dict[str, object]:
        """The paths as they were given."""
        return {"files": list(self.paths)}

    def fits(self, tokenizer: Tokenizer) -> bool:
        """Texts have no ids yet."""
        return False

    def num_tokens(self, tokenizer: Tokenizer) -> int | None:
        """Known only once everything is encoded."""
        return None

    def documents(self, tokenizer: Tokenizer) -> Iterator[TokenizedDocument]:
        """The texts as ids."""
        return encode_texts(self.texts(), tokenizer)

    def texts(self) -> Iterator[EvaluationText]:
        """The cleaned texts."""
        return file_texts(self.paths)


Corpus = StoreCorpus | FilesCorpus
"""Documents to score models on; every call reads them anew, so that nothing is held in memory."""
