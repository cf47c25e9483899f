"""Who is compared: encoders from several places, and what they have to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from selfsup.data.store import fingerprint
from selfsup.embedding import content_of
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.eval.features import RAW, Features, Representation
from selfsup.eval.labelled import Labelled
from selfsup.eval.panel import short_names
from selfsup.eval.probes import calibrate, encoders_of, raw_input
from selfsup.image_encoder import ImageEncoder
from selfsup.predict import holds
from selfsup.predictors.pair import Pair
from selfsup.run import Run
from selfsup.runtime import fastest_device
from selfsup.sides import load_sides
from selfsup.text_encoder import TextEncoder
from selfsup.word_vectors import WordVectors

READS = {"image": "pictures", "text": "texts"}


@dataclass(frozen=True)
class Entrant:
    """Somebody who is compared.

    Attributes:
        name: the place as the user typed it, or what it is.
        representation: `run`, `untrained`, `start` or `raw`.
        identity: fingerprint of all that decides what it sees in samples.
        make: what it sees in labelled samples.
        encoder: none of the raw input.
        tuned: makes the network that is trained with labels; None where that is not asked of it.
        run: that it comes from.
        seed: of its probes: that of its run, so that they are those of `eval`.
    """

    name: str
    representation: str
    identity: str
    make: Callable[[Labelled], Representation]
    encoder: Encoder | None = None
    tuned: Callable[[], Encoder] | None = None
    run: Run | None = None
    seed: int = 0


def run_at(place: str) -> Run | None:
    """The run in a folder, if there is one."""
    return Run(place) if (Path(place) / "run.json").exists() else None


def readers_at(place: str) -> dict[str, Encoder]:
    """The encoders of a run, an exported folder or a hub id by what they read, `image` or `text`: one, or two towers.

    Raises:
        UserError: there is none.
    """
    if not holds(place, Pair.kind):
        encoder = load_encoder(place)
        return {encoder.kind: encoder}
    return {side: load_encoder(place, side) for side in READS} if run_at(place) else load_sides(place)


def read_by_all(readers: dict[str, dict[str, Encoder]]) -> list[str]:
    """What the encoders of all places read: `image`, `text` or both.

    Raises:
        UserError: there is nothing that all of them read.
    """
    found = [kind for kind in READS if all(kind in encoders for encoders in readers.values())]
    if not found:
        one, other = (next(place for place in readers if kind in readers[place]) for kind in READS)
        raise UserError(
            f"{one} reads pictures and {other} texts: allowed are runs of one kind; compare those of each kind apart"
        )
    return found


def _architecture(encoder: Encoder) -> tuple[str, str]:
    """What the network of an encoder is called, and a fingerprint of all that it is before it has learned anything."""
    if isinstance(encoder, ImageEncoder):
        about = encoder.about
        return about.network, fingerprint([about.network, sorted(about.arguments.items()), about.size, about.stem])
    assert isinstance(encoder, TextEncoder | WordVectors)
    words = encoder.tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    if isinstance(encoder, WordVectors):
        table = encoder.module
        return "word vectors", fingerprint([words, encoder.width, table.spelling, table.buckets])
    config = {name: value for name, value in encoder.model.config.to_dict().items() if name != "_name_or_path"}
    named = str(config["model_type"])
    return named, fingerprint([words, encoder.context, asdict(encoder.reading), sorted(map(str, config.items()))])


def entrants_of(encoders: Mapping[str, Encoder], kind: str) -> list[Entrant]:
    """The encoders of all places, each distinct network untrained, each other start of a run, and the raw input.

    Args:
        encoders: of runs, exported folders and hub ids.
        kind: what they read, `image` or `text`.
    """
    runs: list[Entrant] = []
    untrained: dict[str, Entrant] = {}
    starts: list[Entrant] = []
    names, size = short_names(list(encoders)), 0
    for place, encoder in encoders.items():
        run = run_at(place)
        if run is not None:
            family = encoders_of(run, kind if holds(place, Pair.kind) else None)
        else:
            family = {
                name: one.to(fastest_device()) for name, one in (("run", encoder), ("untrained", encoder.fresh(0)))
            }
        trained, fresh, seed = family["run"], family["untrained"], run.recipe.seed if run else 0
        size = max(size, trained.about.size if isinstance(trained, ImageEncoder) else 0)
        runs.append(_trained(place, "run", trained, run, seed))
        network, key = _architecture(trained)
        if key not in untrained:
            taken = any(entrant.name == f"untrained {network}" for entrant in untrained.values())
            name = f"untrained {names[place] if taken else network}"
            untrained[key] = _untrained(name, fresh, trained, seed)
        if "start" in family:
            starts.append(_trained(f"start of {names[place]}", "start", family["start"], None, seed))
    known = {entrant.identity for entrant in runs}
    starts = [entrant for entrant in starts if entrant.identity not in known]
    raw = fingerprint(["raw", min(size, RAW)])
    return [
        *runs, *starts, *untrained.values(),
        Entrant("raw input", "raw", raw, lambda labelled: raw_input(labelled, size)),
    ]  # fmt: skip


def _trained(name: str, representation: str, encoder: Encoder, run: Run | None, seed: int) -> Entrant:
    """A network as it is."""
    return Entrant(
        name, representation, content_of(encoder), lambda labelled: Features.of(encoder, labelled), encoder,
        (lambda: encoder) if representation == "run" else None, run, seed,
    )  # fmt: skip


def _untrained(name: str, encoder: Encoder, trained: Encoder, seed: int) -> Entrant:
    """A network that has learned nothing: its batch norms get statistics of the pictures, whichever they are."""

    def make(labelled: Labelled) -> Representation:
        calibrate(encoder, labelled)
        return Features.of(encoder, labelled)

    # From scratch is trained what was saved, so that both have as many weights: shared ones were written out.
    return Entrant(
        name, "untrained", content_of(encoder), make, encoder, lambda: trained.fresh(seed).to(fastest_device()),
        seed=seed,
    )  # fmt: skip
