"""The verbs that use what a run made: typed functions that call the library and print what it returns."""

from __future__ import annotations

import json as json_format
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfsup.errors import UserError
from selfsup.verbs import Positional, Switch, _typed


def _refuse(said: str, flags: Mapping[str, object]) -> None:
    """Raise `UserError` with the flags of these that were given, if any were."""
    if given := [flag for flag, value in flags.items() if value is not None]:
        raise UserError(said.format(", ".join(given)))


def classify(  # noqa: PLR0913 - flags of one verb
    run: Positional[str],
    data: Positional[str],
    out: Path,
    like: str | None = None,
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    templates: Path | None = None,
    sheet: Path | None = None,
    columns: tuple[str, ...] = (),
    shots: int | None = None,
    prompt: str | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> int:
    r"""A class for each picture or text, from labelled examples, by prompting, or by the names of classes; one CSV.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to classify.
        out: file to write, .csv.
        like: labelled examples, one folder per class or a table with a label column.
        labels: names of classes instead, for a run of clip, which needs no examples.
        templates: text file with one template a line, such as: a photo of a {}; the names alone if not given.
        sheet: file for a page of the pictures with the names found for them, .png.
        columns: columns of the examples by meaning, such as label=species.
        shots: ask a language model, in place of a probe, with so many examples in each prompt; 0 shows none.
        prompt: an example with the places of both, \n for the end of a line; {text}\nlabel: {label}\n\n if not given.
        draws: how often to ask, with other examples; 5 if not given.
        seed: of the choice of examples; 0 if not given.
    """
    asking = {"--prompt": prompt, "--draws": draws, "--seed": seed}
    if labels:
        _refuse("--labels names the classes of a run of clip: drop {}", {"--like": like, "--shots": shots, **asking})
        from selfsup.naming import name_classes

        print(name_classes(run, data, labels, out, templates, columns, sheet))
        return 0
    _refuse("{} without --labels: add --labels NAME NAME, of the classes", {"--templates": templates, "--sheet": sheet})
    if like is None:
        raise UserError("give labelled examples with --like, or for a run of clip the names of classes with --labels")
    if shots is None:
        _refuse("{} without --shots: add --shots N, the examples in a prompt, 0 for none", asking)
        from selfsup.classify import classify as write_classes

        print(write_classes(run, data, like, out, columns))
        return 0
    from selfsup.prompting import DRAWS, PROMPT, Prompting, prompt_classes

    asked = Prompting(
        shots=shots,
        prompt=PROMPT if prompt is None else _typed(prompt),
        draws=DRAWS if draws is None else draws,
        seed=seed or 0,
    )
    file, found = prompt_classes(run, data, like, out, asked, columns)
    print(file)
    if found is not None:
        print(found)
    return 0


def embed(
    run: Positional[str],
    data: str,
    out: Path,
    columns: tuple[str, ...] = (),
    role: Literal["query", "document"] | None = None,
    side: Literal["image", "text"] | None = None,
) -> int:
    """One vector for each picture or text, as .npy or .parquet.

    The same command goes on where an earlier one was stopped; torchrun shares the work among processes.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to embed.
        out: file to write; .parquet holds the names too.
        columns: columns of the data by meaning, such as text=body.
        role: what the texts are, for an encoder that puts something in front of queries or documents.
        side: of a run of clip, which of its towers; that of pictures where the data has any, if not given.
    """
    from selfsup.embedding import embed as write_vectors
    from selfsup.prepare import columns_of

    file = write_vectors(run, data, out, columns_of(columns), role=role, side=side)
    if file is not None:
        print(file)
    return 0


def mine(  # noqa: PLR0913 - flags of one verb
    run: Positional[str],
    data: str,
    out: Path,
    corpus: str | None = None,
    columns: tuple[str, ...] = (),
    negatives: int = 5,
    rule: Literal["ratio", "margin", "absolute", "none"] = "ratio",
    limit: float | None = None,
    ranks: tuple[int, int] = (0, 100),
    json: Switch = False,
) -> int:
    """Hard negatives for pairs of texts: the nearest ones that do not belong to a query, as a column, .jsonl.

    Args:
        run: a run on text, an exported folder, or hf:ID; it says what is near.
        data: pairs, with the columns query and positive.
        out: file to write; the pairs with a column negative, to train on.
        corpus: texts to search, in a column text; the positives of all pairs if not given.
        columns: columns of the pairs by meaning, such as positive=answer.
        negatives: most for a pair.
        rule: which near texts are left out as likely positives; see limit.
        limit: negatives have cosines below this times the positive's (ratio, 0.95 if not given), below the positive's
            minus this (margin, 0.05), or below this (absolute, 0.7); none takes all.
        ranks: of the nearest texts, how many are passed over, and how many are looked at.
        json: print JSON.
    """
    from dataclasses import asdict

    from selfsup.mine import mine as find
    from selfsup.ops.mining import Rule
    from selfsup.prepare import columns_of

    found = find(run, data, out, corpus, columns_of(columns), negatives, Rule(rule, limit, *ranks))
    print(json_format.dumps(asdict(found)) if json else f"{out}: {found}")
    return 0


def near(
    run: Positional[str],
    words: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="WORD ...", help_behavior_hint="")],
    top_k: int = 10,
    json: Switch = False,
) -> int:
    """Words near to a word, or to a sum of words: king - man + woman.

    Args:
        run: a run of word2vec, or an exported folder.
        words: a word, or several with + or - between them.
        top_k: how many.
        json: print one JSON object a line.
    """
    from dataclasses import asdict

    from selfsup.predict import near as nearest_words
    from selfsup.tables import json_lines

    found = nearest_words(run, words, top_k)
    print(json_lines(map(asdict, found)) if json else "\n".join(f"{one.cosine:.3f}  {one.word}" for one in found))
    return 0


def search(arguments: tuple[str, ...]) -> int:
    """An index of texts or pictures, and questions to it: selfsup search build, then query, similar or ask.

    Args:
        arguments: a part of it, and the flags of that.
    """
    from selfsup.parse import call

    return call("search", list(arguments))


def generate(
    run: Positional[str],
    prompt: Positional[str] = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STRING ...")] = (),
    seed: int = 0,
) -> int:
    r"""Continue a text with a language model.

    Args:
        run: a run of a language model, or an exported folder.
        prompt: what to continue.
        tokens: most tokens to make.
        temperature: 0 for the likeliest text, 1 for the model's own probabilities.
        top_k: candidates at each token; 0 for all.
        top_p: of these only the likeliest that have this probability together; 1 for all.
        stop: the text ends before the first of these that it comes to; \n is the end of a line.
        seed: of the choice among the candidates.
    """
    from selfsup.predict import generate as pieces

    sys.stdout.write(prompt)
    for piece in pieces(run, prompt, tokens, temperature, top_k, seed, top_p, tuple(map(_typed, stop))):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0


def fill(
    run: Positional[str], what: Positional[str], out: Path | None = None, mask: Path | None = None, top_k: int = 5,
    json: Switch = False,
) -> int:  # fmt: skip
    """Guess the words behind the masks of a text, or paint what is missing in pictures.

    Args:
        run: a run of masked_lm, sentence_order or inpainting, or an exported folder.
        what: text with [MASK], or what its tokenizer calls it, where a word is missing; or a picture, or a folder of
            pictures, whose transparent parts are missing.
        out: folder for the pictures.
        mask: picture that is white where something is missing, in place of transparent parts.
        top_k: guesses for each mask of a text.
        json: print one JSON object a line.
    """
    from selfsup.predict import fill as guesses
    from selfsup.predict import holds
    from selfsup.tables import chance_table, json_lines

    if holds(run, "reconstruct"):
        from selfsup.restoration import fill_pictures

        if out is None:
            raise UserError(f"{run} fills pictures: give a folder for them with --out")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        files = fill_pictures(run, what, out, mask)
        print(json_lines({"file": str(file)} for file in files) if json else f"{len(files)} pictures in {out}")
        return 0
    if out or mask:
        raise UserError(f"--out and --mask are for pictures, which {run} does not fill; a run of inpainting does")
    masks = guesses(run, what, top_k)
    for number, found in enumerate(masks, 1):
        if json:
            print(json_lines({"mask": number, "token": one.token, "probability": one.probability} for one in found))
        else:
            rows = [(json_format.dumps(one.token, ensure_ascii=False), one.probability) for one in found]
            print(f"mask {number} of {len(masks)}\n{chance_table(rows)}")
    return 0


def continue_(run: Positional[str], text: Positional[str], candidates: Path, json: Switch = False) -> int:
    """Rank passages by how well they continue a text.

    Args:
        run: a run of sentence_order or of a language model, or an exported folder.
        text: what came before.
        candidates: text file with one passage a line.
        json: print one JSON object a line.
    """
    from selfsup.predict import continuations, passages_of
    from selfsup.tables import chance_table, json_lines

    ranked = continuations(run, text, passages_of(candidates))
    rows = ({"probability": chance, "passage": passage} for passage, chance in ranked)
    print(json_lines(rows) if json else chance_table(ranked))
    return 0
