"""An index: passages or pictures with their vectors and words, on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfsup.data.source import Data, Source, open_source
from selfsup.embedding import content_of
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.predict import holds
from selfsup.predictors.pair import Pair
from selfsup.progress import Progress
from selfsup.run import held, writing
from selfsup.runtime import fastest_device
from selfsup.search.change import Change
from selfsup.search.faiss_index import Kind, faiss_module
from selfsup.search.merging import settled
from selfsup.search.passages import Cut
from selfsup.search.segment import Segment
from selfsup.search.shelf import CONTENTS, OWN, Contents, Named, Shelf, sync, sync_all
from selfsup.search.writing import Writer
from selfsup.sides import Side, encoder_for, load_sides, read_by

if TYPE_CHECKING:
    from selfsup.search.hits import Hit
    from selfsup.search.query import Method

NAMED = 5  # ids that a message names
TRIES = 5  # to open what another process is just changing


class Index:
    """An index in its folder, as it was when it was opened or changed last by this object.

    Attributes:
        shelf: the folder.
        encoder: what makes its vectors.
        other: what makes vectors for questions of the other kind, in the same space; None where there is no such.
        contents: what is in force.
        segments: its rows.
    """

    def __init__(self, folder: str | os.PathLike, encoder: Encoder, other: Encoder | None = None) -> None:
        self.shelf, self.encoder, self.other = Shelf(Path(folder)), encoder, other
        self._open()

    def _open(self) -> None:
        for number in range(TRIES):
            self.contents = self.shelf.read()
            if self.contents.about["index"] != "exact":
                faiss_module()  # also where no segment has a graph yet
            folder, about = self.shelf.folder, self.contents.about
            try:
                self.segments = [Segment.of(folder, one, about).opened() for one in self.contents.segments]
            except FileNotFoundError as error:  # forgotten by who changed the index since it was read
                if number == TRIES - 1:
                    raise UserError(f"{folder} is damaged: {error.filename} is missing; build it anew") from error
            else:
                return

    @classmethod
    def build(  # noqa: PLR0913 - flags of one verb
        cls,
        place: str | os.PathLike,
        data: Data,
        out: str | os.PathLike,
        columns: dict[str, str] | None = None,
        *,
        passage: int | None = None,
        overlap: int | None = None,
        dimensions: int | None = None,
        kind: Kind = "exact",
        side: Side | None = None,
        quiet: bool = False,
    ) -> tuple[Index, Change]:
        """Index everything that a source holds.

        Args:
            place: a run, an exported folder, or a hub id.
            data: texts or pictures, see `open_source`.
            out: folder of the index.
            columns: meaning -> name of the user's column.
            passage: tokens of a passage of text; see `Cut.of`.
            overlap: tokens that it shares with the one before.
            dimensions: keep so many first numbers of the vectors, of an encoder trained with --dimensions.
            kind: how vectors are searched: all of them (`exact`), the same by FAISS (`flat`), or by a graph, which may
                miss some (`hnsw`).
            side: of a run of `clip`, whether pictures or texts are indexed; pictures where there are any, if None.
            quiet: no progress on the terminal.

        Raises:
            UserError: there is an index already, nothing to index, FAISS is asked for and not there, or the folder
                cannot be written.
        """
        folder = Path(out)
        _check_new(folder)
        if kind != "exact":
            faiss_module()
        source = open_source(data, columns)
        encoder, other, source = encoder_for(place, source, side)
        width = encoder.width  # type: ignore[attr-defined]
        if dimensions is not None and not 0 < dimensions <= width:
            raise UserError(f"--dimensions {dimensions}: the encoder's vectors have {width} numbers; give fewer")
        cut = Cut.of(encoder, passage, overlap)
        here = os.path.abspath(place) if os.path.exists(place) else os.fspath(place)  # else a hub id
        about = {
            "encoder": here, "content": content_of(encoder), "kind": encoder.kind,
            "width": dimensions or width, "passage": cut.size, "overlap": cut.overlap, "index": kind,
        }  # fmt: skip
        shelf = Shelf(folder)
        with held(folder):
            _check_new(folder)  # nobody has built one meanwhile
            empty = Contents(about)
            shelf.tidy(empty)
            contents, change = _added(shelf, empty, [], encoder, source, Progress(not quiet))
            if not contents.segments:
                raise UserError(f"{source.name}: nothing could be indexed{_first_bad(change.bad)}")
            shelf.put(contents)
        return cls(folder, encoder, other), change

    @classmethod
    def load(cls, folder: str | os.PathLike, encoder: str | os.PathLike | None = None) -> Index:
        """Open an index with the encoder that it names, or one in another place, which has to be the same.

        Raises:
            UserError: no index, or another encoder.
        """
        about = Shelf(Path(folder)).read().about
        place = about["encoder"] if encoder is None else os.fspath(encoder)
        try:
            sides = load_sides(place) if holds(place, Pair.kind) else {}
            found = sides.pop(about["kind"]) if sides else load_encoder(place).to(fastest_device())
        except UserError as error:
            raise UserError(
                f"{folder} was built with {about['encoder']}; say where that is with --encoder: {error}"
            ) from error
        if content_of(found) != about["content"]:
            raise UserError(
                f"{folder} was built with {about['encoder']}, whose vectors are not those of {place} as it is now; "
                "give that encoder with --encoder, or build the index anew"
            )
        return cls(folder, found, next(iter(sides.values()), None))

    def add(self, data: Data, columns: dict[str, str] | None = None, quiet: bool = False) -> Change:
        """Put more into the index; a document whose id is there takes the place of that one, if it is another.

        Raises:
            UserError: nothing can be read, or the folder cannot be written.
        """
        source = open_source(data, columns)
        if self.other is not None:
            source = read_by(self.encoder.kind, source)
        with held(self.shelf.folder):
            self._open()
            self.shelf.tidy(self.contents)
            contents, change = _added(
                self.shelf, self.contents, self.segments, self.encoder, source, Progress(not quiet)
            )
            self.shelf.put(contents)
            self._open()
        return change

    def remove(self, ids: Iterable[str], quiet: bool = False) -> Change:
        """Take documents out, by id.

        Raises:
            UserError: one of them is not there; nothing is removed then.
        """
        asked = set(ids)
        with held(self.shelf.folder):
            self._open()
            self.shelf.tidy(self.contents)
            rows = [[row for row, (name,) in one.alive("id") if name in asked] for one in self.segments]
            found = {name for one in self.segments for _, (name,) in one.alive("id")} & asked
            if missing := sorted(asked - found):
                named = ", ".join(map(repr, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
                raise UserError(f"{self.shelf.folder} has no document {named}; nothing was removed")
            left = _without(self.shelf, self.contents, self.segments, rows)
            contents, quality = settled(self.shelf, left, [], Progress(not quiet))
            self.shelf.put(contents)
            self._open()
        return Change(removed=len(asked), quality=quality)

    def query(self, asked: object, k: int = 5, method: Method | None = None, where: Sequence[str] = ()) -> list[Hit]:
        """The documents that answer a question best; see `search.query.search`."""
        from selfsup.search.query import search  # which asks an index, and so lies above it

        return search(self, asked, k, method, where)

    def save(self, out: str | os.PathLike) -> None:
        """Copy the index, as it is in force, to a new folder.

        Raises:
            UserError: the folder is not empty, or cannot be written.
        """
        target = Path(out)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} holds files already; give a new folder")
        with writing(target):
            target.mkdir(parents=True, exist_ok=True)
            for named in self.contents.segments:
                shutil.copytree(self.shelf.folder / named.name, target / named.name)
                if named.gone is not None:
                    shutil.copy(self.shelf.folder / named.gone, target / named.gone)
            sync_all(target)
        Shelf(target).put(self.contents)

    def __len__(self) -> int:
        """Rows that count."""
        return sum(int(one.there.sum()) for one in self.segments)


def _check_new(folder: Path) -> None:
    """Raise `UserError` where a folder holds an index, or anything but what a killed build left."""
    if (folder / CONTENTS).exists():
        raise UserError(f"{folder} is an index already; selfsup search add puts more into it")
    left = {"lock", f"{CONTENTS}.new"}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a new folder")
    if folder.exists() and not all(entry.name in left or OWN.fullmatch(entry.name) for entry in folder.iterdir()):
        raise UserError(f"--out {folder} holds other files; give a new folder")


def _first_bad(bad: Iterable[tuple[str, str]]) -> str:
    return next((f"; {name}: {reason}" for name, reason in bad), "")


def _without(shelf: Shelf, contents: Contents, segments: list[Segment], rows: list[list[int]]) -> Contents:
    """The contents without some rows of each segment, whose lists are on the disk."""
    kept = []
    for named, segment, some in zip(contents.segments, segments, rows, strict=True):
        if not some:
            kept.append(named)
            continue
        gone = np.union1d(np.flatnonzero(~segment.there), some)
        if len(gone) == named.rows:
            continue  # nothing of it is left
        file = shelf.folder / f"gone-{contents.serial + 1:06}-{named.name}.npy"
        with writing(file):
            np.save(file, gone)
            sync(file)
        kept.append(replace(named, gone=file.name))
    return replace(contents, segments=tuple(kept))


def _added(
    shelf: Shelf, contents: Contents, segments: list[Segment], encoder: Encoder, source: Source, progress: Progress
) -> tuple[Contents, Change]:
    """The contents with what a source holds, all of it on the disk, and what changes by that."""
    there: dict[str, Any] = {}  # stamp of each document
    for one in segments:
        there |= {name: stamp for _, (name, stamp) in one.alive("id", "stamp")}
    folder = shelf.folder / f"segment-{contents.serial + 1:06}"
    about = contents.about
    writer = Writer(folder, encoder, Cut(about["passage"], about["overlap"]), about["width"], progress)
    try:
        written = writer.write(source, there)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    renewed = written.ids & there.keys()
    rows = (
        [[row for row, (name,) in one.alive("id") if name in renewed] for one in segments]
        if renewed
        else [[]] * len(segments)
    )
    kept = _without(shelf, contents, segments, rows)
    fresh = [Named(folder.name, written.rows)] if written.rows else []
    kept, quality = settled(shelf, replace(kept, segments=(*kept.segments, *fresh)), fresh, progress)
    change = Change(
        added=len(written.ids - renewed), renewed=len(renewed), kept=written.kept, passages=written.rows,
        bad=tuple(written.bad), quality=quality,
    )  # fmt: skip
    return kept, change
