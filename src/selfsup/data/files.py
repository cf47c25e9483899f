"""Files and folders as the parts of a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from selfsup.data.decode import SUFFIXES
from selfsup.data.handed_over import PARTS
from selfsup.data.part import Part, with_column
from selfsup.data.samples import SAMPLES
from selfsup.data.store import fingerprint
from selfsup.errors import UserError

TABLES = {".csv": Dataset.from_csv, ".tsv": Dataset.from_csv, ".jsonl": Dataset.from_json, ".json": Dataset.from_json}
TABLES |= {".parquet": Dataset.from_parquet}
TEXTS = frozenset({".txt", ".text", ".md", ".rst"})
REMARKS = frozenset({".md", ".rst"})  # beside a table they describe it
CELL = {"bytes": Value("binary"), "path": Value("string")}


def parts_of_path(path: Path, tables: Path) -> dict[str, Part]:
    """The parts of a file or folder.

    Args:
        path: what to open.
        tables: folder for what reading tables writes.

    Raises:
        UserError: nothing is there, or nothing that can be learned from.
    """
    if not path.exists():
        known = f"; for a sample type sample:NAME ({', '.join(SAMPLES)}), for the hub hf:ID"
        raise UserError(f"{path}: no such file or folder{known}")
    try:
        if path.is_file():
            return {"train": _file(path, tables)}
        return {name: _entry(entry, tables) for name, entry in _named_parts(path).items()}
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


def _entry(entry: Path, tables: Path) -> Part:
    return _file(entry, tables) if entry.is_file() else _folder(entry, tables)


def _named_parts(folder: Path) -> dict[str, Path]:
    """The parts that a folder holds by name (train, test, ...), else the folder itself as the one to train on.

    A lone `train` among other folders is taken for a class: railways are photographed too.
    """
    inside = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    for kind in (Path.is_dir, lambda entry: entry.is_file() and entry.suffix.lower() in TABLES | dict.fromkeys(TEXTS)):
        entries = [entry for entry in inside if kind(entry)]
        parts = {PARTS[entry.stem.lower()]: entry for entry in entries if entry.stem.lower() in PARTS}
        others = [entry for entry in entries if entry.stem.lower() not in PARTS and entry.suffix not in REMARKS]
        if "train" in parts and (len(parts) > 1 or not others):
            return parts
    return {"train": folder}


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`: a table is read in a moment."""
    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()


def _file(path: Path, tables: Path) -> Part:
    """The rows of one file: a table, or one text document."""
    suffix = path.suffix.lower()
    stat = path.stat()
    identity = fingerprint([path.resolve(), stat.st_size, stat.st_mtime_ns])
    if suffix in SUFFIXES:
        raise UserError(f"{path} is one picture; give the folder that holds the pictures")
    if suffix not in TABLES:
        return Part(_texts([path]), identity)
    if not stat.st_size:
        raise UserError(f"{path} is empty")
    try:
        tables.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write under {tables}: {error.strerror}; name another --cache") from error
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        with _no_bars():
            rows = TABLES[suffix](str(path), cache_dir=str(tables), **options)
    except Exception as error:  # whatever pandas, pyarrow or datasets make of a broken table
        reason = " ".join(str(error.__cause__ or error).split())
        reason = "it has no rows" if "corresponds to no data" in reason else reason
        raise UserError(f"{path}: cannot be read as {suffix[1:]}: {reason[:200]}") from error
    return Part(rows, identity, path.parent)  # type: ignore[arg-type]


def _texts(files: Sequence[Path]) -> Dataset:
    """One row a text file, read only when the store is built."""
    cells = [{"bytes": None, "path": str(file)} for file in files]
    return Dataset.from_dict({"text": cells}, Features({"text": CELL}))


def _walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[os.DirEntry]:
    """All files below a folder that are not hidden, in the order of their names; links in a circle end."""
    place = os.path.realpath(folder)
    if place in above:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {place})
        else:
            yield entry


def _stat(file: os.DirEntry) -> tuple[int, int]:
    """Size and time of change; of a link that leads nowhere those of the link."""
    try:
        stat = file.stat()
    except OSError:
        stat = file.stat(follow_symlinks=False)
    return stat.st_size, stat.st_mtime_ns


def _folder(folder: Path, tables: Path) -> Part:
    """The rows of a folder: pictures (with a table of captions, or classes by subfolder), texts, or one table."""
    files = list(_walk(folder))
    stats = [(os.path.relpath(file.path, folder), *_stat(file)) for file in files]
    identity = fingerprint([folder.resolve(), *stats])
    by_ending: dict[str, list[str]] = {}
    for file in files:
        by_ending.setdefault(os.path.splitext(file.name)[1].lower(), []).append(file.path)
    pictures, lists, texts, remarks = (
        sorted(path for ending in kinds for path in by_ending.get(ending, []))
        for kinds in (SUFFIXES, TABLES, TEXTS, REMARKS)
    )
    metadata = [file for file in lists if Path(file).stem == "metadata"]
    if pictures and metadata:
        return Part(_captioned(Path(metadata[0]), tables), identity, folder)
    if pictures:
        return Part(_pictures(folder, pictures), identity, folder)
    if len(lists) == 1 and texts == remarks:
        return _file(Path(lists[0]), tables)
    if texts:
        return Part(_texts([Path(file) for file in texts]), identity, folder)
    pictures_end, texts_end = " ".join(sorted(SUFFIXES)), " ".join(sorted(TEXTS))
    kinds = f"pictures ({pictures_end}), texts ({texts_end}) or one table ({' '.join(TABLES)})"
    raise UserError(f"{folder}: no data found in {len(files)} files; looked for {kinds}")


def _pictures(folder: Path, files: Sequence[str]) -> Dataset:
    """One row a picture; those of several folders are labelled by folder."""
    columns: dict[str, list] = {"image": [{"bytes": None, "path": file} for file in files]}
    features: dict[str, object] = {"image": Image(decode=False)}
    classes = [os.path.relpath(os.path.dirname(file), folder) for file in files]
    if len(set(classes)) > 1:
        columns["label"], features["label"] = classes, Value("string")
    return Dataset.from_dict(columns, Features(features))


def _captioned(metadata: Path, tables: Path) -> Dataset:
    """Pictures named by the column `file_name` of a table beside them."""
    table = _file(metadata, tables).table
    if "file_name" not in table.column_names:
        raise UserError(f"{metadata}: no column 'file_name'; it names the picture of each row, relative to this file")
    cells = [{"bytes": None, "path": str(metadata.parent / str(name))} for name in table["file_name"]]
    return with_column(table, "image", cells).remove_columns("file_name")
