"""The parts of the verb `search`: typed functions that call the library and print what it returns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from selfsup.verbs import Positional, Switch, _typed

if TYPE_CHECKING:
    from selfsup.search.change import Change
    from selfsup.search.hits import Hit
    from selfsup.search.index import Index

Ids = Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="ID ...", help_behavior_hint="")]
Conditions = Annotated[tuple[str, ...], tyro.conf.arg(metavar="CONDITION ...")]
Many = Annotated[int, tyro.conf.arg(aliases=["-k"])]
NAMED = 5  # documents that could not be read


def _changed(index: Path, change: Change, json: bool) -> int:
    """Print what a change did."""
    from selfsup.tables import json_lines

    if json:
        print(json_lines([asdict(change)]))
        return 0
    for name, reason in change.bad[:NAMED]:
        print(f"not indexed: {name}: {reason}")
    if len(change.bad) > NAMED:
        print(f"not indexed: {len(change.bad) - NAMED:,} more")
    print(f"{index}: {change}")
    return 0


def _opened(index: Path, encoder: str | None, out: Path | None) -> Index:
    """The index, where a page of pictures can be drawn of it if one is asked for."""
    from selfsup.search.index import Index
    from selfsup.search.sheet import check_sheet

    opened = Index.load(index, encoder)
    if out is not None:
        check_sheet(opened, out)
    return opened


def _shown(hits: Sequence[Hit], json: bool, out: Path | None, title: str, asked: Path | None = None) -> int:
    """Print hits, best first, and draw them on a page if one is asked for."""
    from selfsup.tables import hits_text, json_lines

    if out is not None and hits:
        from selfsup.search.sheet import draw_hits

        draw_hits(out, hits, title, asked)
    print(json_lines(hit.spoken() for hit in hits) if json else hits_text(hits))
    return 0


def build(  # noqa: PLR0913 - flags of one verb
    run: Positional[str],
    data: Positional[str],
    out: Path,
    columns: tuple[str, ...] = (),
    passage: int | None = None,
    overlap: int | None = None,
    dimensions: int | None = None,
    index: Literal["exact", "flat", "hnsw"] = "exact",
    side: Literal["image", "text"] | None = None,
    json: Switch = False,
) -> int:
    """An index of texts or pictures, in a new folder.

    Args:
        run: a run, an exported folder, or hf:ID, that makes the vectors.
        data: what to index; a column id names the documents, further columns can be filtered by.
        out: folder of the index.
        columns: columns of the data by meaning, such as text=body.
        passage: tokens of a passage; as many as the encoder reads, but at most 256, if not given.
        overlap: tokens that it shares with the one before; a quarter of a passage if not given.
        dimensions: keep so many first numbers of the vectors, for an encoder trained with --dimensions.
        index: exact looks at all vectors, flat too, by FAISS; hnsw finds most of the nearest ones by FAISS's graph, for
            a million and more; how many of ten is printed.
        side: of a run of clip, whether pictures or texts are indexed; pictures where there are any, if not given.
        json: print JSON.
    """
    from selfsup.prepare import columns_of
    from selfsup.search.index import Index

    _, change = Index.build(
        run, data, out, columns_of(columns), passage=passage, overlap=overlap, dimensions=dimensions, kind=index,
        side=side,
    )  # fmt: skip
    return _changed(out, change, json)


def add(
    index: Positional[Path],
    data: Positional[str],
    columns: tuple[str, ...] = (),
    encoder: str | None = None,
    json: Switch = False,
) -> int:
    """More documents into an index; one whose id is there takes the place of that one, if it is another.

    Args:
        index: folder of the index.
        data: what to add; what is there already and has not changed is passed over.
        columns: columns of the data by meaning, such as text=body.
        encoder: where the encoder of the index is, if not where it was when the index was built.
        json: print JSON.
    """
    from selfsup.prepare import columns_of
    from selfsup.search.index import Index

    return _changed(index, Index.load(index, encoder).add(data, columns_of(columns)), json)


def remove(index: Positional[Path], ids: Ids, encoder: str | None = None, json: Switch = False) -> int:
    """Take documents out of an index.

    Args:
        index: folder of the index.
        ids: of the documents.
        encoder: where the encoder of the index is, if not where it was when the index was built.
        json: print JSON.
    """
    from selfsup.search.index import Index

    return _changed(index, Index.load(index, encoder).remove(ids), json)


def query(  # noqa: PLR0913 - flags of one verb
    index: Positional[Path],
    asked: Positional[str],
    k: Many = 5,
    method: Literal["hybrid", "dense", "words"] | None = None,
    where: Conditions = (),
    passages: Switch = False,
    out: Path | None = None,
    encoder: str | None = None,
    json: Switch = False,
) -> int:
    """The documents that answer a question best, each with its best passage.

    Args:
        index: folder of the index.
        asked: a text, or the name of a file with a text or a picture; of both in an index by a run of clip.
        k: how many.
        method: dense goes by vectors, words by BM25, hybrid by both; hybrid for texts if not given.
        where: conditions on columns of the documents, such as year>=2000.
        passages: the best passages instead, of which several may be of one document.
        out: file for the pictures found, .png.
        encoder: where the encoder of the index is, if not where it was when the index was built.
        json: print one JSON object a line.
    """
    from selfsup.search.query import by_picture, counting, search
    from selfsup.search.query import passages as best_passages

    opened = _opened(index, encoder, out)
    if passages:
        hits = best_passages(opened, asked, k, method, counting(opened, k, where))
    else:
        hits = search(opened, asked, k, method, where)
    return _shown(hits, json, out, asked, Path(asked) if by_picture(opened, asked) else None)


def ask(  # noqa: PLR0913 - flags of one verb
    index: Positional[Path],
    question: Positional[str],
    generator: str,
    k: Many = 5,
    method: Literal["hybrid", "dense", "words"] | None = None,
    where: Conditions = (),
    prompt: str | None = None,
    tokens: int | None = None,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STRING ...")] = (),
    seed: int = 0,
    encoder: str | None = None,
    json: Switch = False,
) -> int:
    r"""What a language model says to a question with the best passages before it, and which these were.

    Args:
        index: folder of an index of texts.
        question: a text, or the name of a file of one.
        generator: a run of a language model, an exported folder, or hf:ID.
        k: most passages; as many are shown as there is room for.
        method: dense goes by vectors, words by BM25, hybrid by both; hybrid if not given.
        where: conditions on columns of the documents, such as year>=2000.
        prompt: text with the places {passages} and {question}, \n for the end of a line.
        tokens: most tokens of the answer; 200 if not given, but at most half of what the model reads at once.
        temperature: 0 for the likeliest answer, 1 for the model's own probabilities.
        top_k: candidates at each token; 0 for all.
        top_p: of these only the likeliest that have this probability together; 1 for all.
        stop: the answer ends before the first of these that it comes to; \n is the end of a line.
        seed: of the choice among the candidates.
        encoder: where the encoder of the index is, if not where it was when the index was built.
        json: print JSON.
    """
    from selfsup.predict import Sampling, load_generator
    from selfsup.search.ask import ask as answer_of
    from selfsup.search.ask import tokens_for
    from selfsup.search.index import Index
    from selfsup.tables import hits_text, json_lines

    opened, model = Index.load(index, encoder), load_generator(generator)
    how = Sampling(
        tokens=tokens_for(model) if tokens is None else tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        stop=tuple(map(_typed, stop)), seed=seed,
    )  # fmt: skip
    answer = answer_of(opened, question, model, k, method, where, prompt and _typed(prompt), how)
    if json:
        sources = [{"number": one.number, **one.hit.spoken()} for one in answer.sources]
        print(json_lines([{"answer": answer.text, "sources": sources}]))
        return 0
    for piece in answer.pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(f"\n\nsources:\n{hits_text([one.hit for one in answer.sources])}")
    return 0


def similar(
    index: Positional[Path],
    ids: Ids,
    k: Many = 5,
    where: Conditions = (),
    out: Path | None = None,
    encoder: str | None = None,
    json: Switch = False,
) -> int:
    """What is near to some documents that are liked, themselves left out.

    Args:
        index: folder of the index.
        ids: of the documents.
        k: how many.
        where: conditions on columns of the documents, such as year>=2000.
        out: file for the pictures found, .png.
        encoder: where the encoder of the index is, if not where it was when the index was built.
        json: print one JSON object a line.
    """
    from selfsup.search.query import similar as near

    opened = _opened(index, encoder, out)
    return _shown(near(opened, ids, k, where), json, out, ", ".join(ids))
