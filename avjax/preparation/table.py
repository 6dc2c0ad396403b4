"""Reads tables as spreadsheets write them: delimiter and encoding are found by content."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from avjax.errors import InputError
from avjax.runtime.impostors import HEAD_BYTES, impostor

_DELIMITERS = ",;\t"
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx, ods and numbers are zips; xls is OLE
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Table(NamedTuple):
    """A table's header and rows.

    Attributes:
      columns: names in the first line, in lower case.
      rows: number of the line and fields of each row that is not blank; the fields are stripped.
      notes: what had to be guessed, a line each.
    """

    columns: list[str]
    rows: list[tuple[int, list[str]]]
    notes: list[str]


def read_table(path: Path, known: Sequence[str]) -> Table:
    """Reads a table from text with commas, semicolons or tabs.

    Args:
      path: a file in UTF-8, UTF-16 or Windows-1252. A first line ``sep=;`` names the delimiter.
      known: names that columns may have; they tell the delimiter.

    Raises:
      InputError: the file cannot be read, or is a spreadsheet.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if content.startswith(_SPREADSHEETS):
        raise InputError(
            f"{path} is a spreadsheet, not text; open it in its program and save it as CSV"
        )
    if content and (what := impostor(content[:HEAD_BYTES])):
        raise InputError(f"{path} {what}")
    text, notes = _decoded(path, content)
    separator = re.match(r"sep=(.)[^\n\r]*(\r\n?|\n)", text, re.IGNORECASE)
    skipped = 1 if separator else 0
    text = text[separator.end() :] if separator else text
    delimiter = separator[1] if separator else _delimiter(text, known)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for fields in reader:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                rows.append((skipped + reader.line_num, stripped))
    except csv.Error as error:
        line = skipped + reader.line_num
        raise InputError(f"{path} line {line} cannot be read as CSV ({error})") from error
    columns = [name.lower() for name in rows[0][1]] if rows else []
    while columns and not columns[-1]:  # as spreadsheets write columns that were once in use
        columns.pop()
    return Table(columns, rows[1:], notes)


def _decoded(path: Path, content: bytes) -> tuple[str, list[str]]:
    """Returns the text, and a note if its encoding is a guess."""
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    zeros = content[:200].count(0)
    if not mark and zeros:  # UTF-16 without a mark: every other byte of Latin text is 0
        encoding = "utf-16-le" if content[1:200:2].count(0) == zeros else "utf-16-be"
    try:
        text = content.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise InputError(f"{path} is no text; save it as CSV in UTF-8 ({error})") from error
        note = (
            f"{path} is not in UTF-8 and was read as Windows-1252; save it in UTF-8 if names differ"
        )
        return content.decode("cp1252", errors="replace"), [note]
    if "\0" in text:
        raise InputError(f"{path} is no text; save it as CSV in UTF-8")
    return text, []


def _delimiter(text: str, known: Sequence[str]) -> str:
    """The delimiter that splits the first line into most known names."""
    header = next((line for line in text.splitlines() if line.strip()), "")

    def names(delimiter: str) -> int:
        fields = [field.strip(' "').lower() for field in header.split(delimiter)]
        return sum(field in known for field in fields)

    return max(_DELIMITERS, key=names)
