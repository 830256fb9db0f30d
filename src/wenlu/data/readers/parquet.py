"""Parquet tables, read batch by batch (needs pyarrow, the extra ``data``)."""

from __future__ import annotations

from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.files import DataSettings, Record, Report, SourceFile

SUFFIXES = ("parquet",)
_BATCH_ROWS = 1024


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The text column of each row; the line of a record is the number of its row.

    Raises:
        DataError: ``data.missing_extra``, ``data.bad_parquet``, ``data.missing_field``, ``data.field_not_text``.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("data.missing_extra", path=source, module="pyarrow", extra="data") from error
    if source.compression:
        raise DataError("data.compressed_parquet", path=source)
    name = settings.text_field
    try:
        with parquet.ParquetFile(source.path) as table:
            schema = table.schema_arrow
            if name not in schema.names:
                known = ", ".join(schema.names) or "-"
                raise DataError("data.missing_field", path=source, line=1, field=name, fields=known)
            kind = schema.field(name).type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError("data.field_not_text", path=source, line=1, field=name, kind=kind)
            row, rows, size = 0, max(table.metadata.num_rows, 1), source.path.stat().st_size
            report.place = lambda: size * row // rows
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[name]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield Record(text, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError("data.bad_parquet", path=source, reason=reason) from error
