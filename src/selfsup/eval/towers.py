"""What a run with two towers is judged on: its sides, those it began with, and pictures with captions."""

from __future__ import annotations

from selfsup.backbones import TowerBackbone
from selfsup.data.captions import CaptionStore, caption_column, captioned, readable
from selfsup.data.facts import CaptionFacts
from selfsup.data.pixels import PixelStore
from selfsup.data.source import Data
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.eval.captions import Links
from selfsup.eval.health import some
from selfsup.eval.labelled import open_source_of
from selfsup.eval.probes import CALIBRATION
from selfsup.predict import holds, load_predictor
from selfsup.predictors.pair import Pair
from selfsup.prepare import open_part, prepare
from selfsup.progress import Progress
from selfsup.recipes import CaptionData
from selfsup.run import Run
from selfsup.runtime import fastest_device


def sides_of(run: Run, pictures: PixelStore) -> dict[str, dict[str, Encoder]]:
    """The sides `image` and `text` of a run, and of the same before its first step; none of a run without a pair.

    Args:
        run: any.
        pictures: from which batch norms that were never trained take their statistics.
    """
    if not holds(run.folder, Pair.kind):
        return {}
    before = next(one for one in run.untrained().predictors() if isinstance(one, Pair))
    before.module.to(fastest_device())
    backbone = run.recipe.backbone
    name = "start" if backbone.init else "untrained"
    if not (isinstance(backbone, TowerBackbone) and backbone.image_init):
        before.image.calibrate(some(pictures, before.image, CALIBRATION))
    return {"run": load_predictor(run.folder, Pair).sides(), name: before.sides()}


def open_links(run: Run, settings: CaptionData, data: Data | None, progress: Progress) -> tuple[Links, str] | None:
    """Pictures with captions that the run did not learn from, where there are some, and which part they are.

    None where the data has no captions.

    Args:
        run: whose own held-out part it is, without `data`.
        settings: name the source and its columns.
        data: what was named in their place.
        progress: shows the work.

    Raises:
        UserError: fewer than two pictures with captions can be read.
    """
    if data is None:
        own = prepare(run.data, None, False, progress)
        few = own.held_out is None or len(own.held_out) < 2
        split, store = ("train", own.train) if few else ("held-out", own.held_out)
        assert isinstance(store, CaptionStore)
        return Links.of(store.pictures, store.captions()), split
    source, name = open_source_of(settings, data)
    split = next(part for part in ("test", "valid", "train") if part in source.parts)
    if caption_column(source.parts[split].table) is None:
        return None
    found = captioned(source.parts[split], name)
    facts = run.facts
    assert isinstance(facts, CaptionFacts)
    pictures = open_part(found.part, facts.image.resolution, settings, progress, facts.image.channels)
    rows = readable(pictures)
    if len(rows) < 2:
        raise UserError(f"{name}: {len(rows)} picture with a caption: nothing can be scored on it; give two or more")
    return Links.of(pictures.subset(rows), [found.captions[row] for row in rows.tolist()]), split
