"""What a run is: frozen, validated settings that survive JSON. Functions build them, flags override them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from selfsup.backbones import Backbone
from selfsup.fields import STRICT, Count, Share, one_of


@validated(frozen=True, kw_only=True, config=STRICT)
class ImageData:
    """Pictures and how they are prepared."""

    source: Annotated[str, tyro.conf.arg(name="data")]
    """What to learn from: a folder, a file, sample:NAME or hf:ID."""
    columns: tuple[str, ...] = ()
    """Columns of yours by meaning, such as image=photo label=species."""
    pixels: Count | None = None
    """Edge of the picture that the network sees, in pixels; from the pictures and the device when not given."""
    cache: str | None = None
    """Folder for prepared data; else $SELFSUP_CACHE, else ~/.cache/selfsup."""
    cache_gb: Annotated[float, Field(ge=0)] = 20.0
    """Prepared pictures beyond this are decoded again whenever they are needed."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read ahead; chosen from where the pictures lie when not given."""
    weights: str | None = None
    """Parquet file with a weight for every training row: `selfsup audit` writes it, `train` weighs the losses by it."""


@validated(frozen=True, kw_only=True, config=STRICT)
class TextData:
    """Text and how it is prepared."""

    source: Annotated[str, tyro.conf.arg(name="data")]
    """What to learn from: a text file, a folder, a table, sample:NAME or hf:ID."""
    columns: tuple[str, ...] = ()
    """Columns of yours by meaning, such as text=body."""
    tokenizer: str = "bpe"
    """`byte`, `char` or `bpe` made from the data; or a folder, run or hub id that has one."""
    vocabulary: Count | None = None
    """Number of ids of a bpe tokenizer; about the square root of the bytes of text when not given."""
    lines: Literal["keep", "join"] = "keep"
    """Line breaks inside a paragraph: `keep` them, unless a tokenizer that is given joins them, or `join` the lines."""
    cache: str | None = None
    """Folder for prepared data; else $SELFSUP_CACHE, else ~/.cache/selfsup."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read ahead; none when not given, because windows are cheap to read."""
    weights: str | None = None
    """Parquet file with a weight for every training row: `selfsup audit` writes it, `train` weighs the losses by it."""


@validated(frozen=True, kw_only=True, config=STRICT)
class WordData(TextData):
    """Text as words."""

    tokenizer: str = "word"
    """`word`, made from the data; or a folder, run or hub id that has one."""
    vocabulary: Count | None = None
    """Most words that are told apart; all that are frequent enough when not given."""
    min_count: Count = 5
    """Words that occur less often in the training text are left out."""
    case: Literal["lower", "keep"] = "lower"
    """Whether words are written in lower case."""
    lines: Literal["keep", "join"] = "keep"
    """A sentence ends where a line does (`keep`), or only at an empty line (`join`), which suits wrapped lines."""


@validated(frozen=True, kw_only=True, config=STRICT)
class PairData(TextData):
    """Texts that belong together, or plain text, and how they are prepared."""

    pairs: Literal["columns", "title", "text"] | None = None
    """What a row is: `columns` query and positive, the first line of a document and the rest (`title`), or a plain
    `text`, which --views makes two of; columns where they are there, else text, when not given."""
    query_prompt: str = ""
    """What is put in front of queries, in training and ever after."""
    document_prompt: str = ""
    """What is put in front of positives and negatives."""


@validated(frozen=True, kw_only=True, config=STRICT)
class CaptionData(ImageData):
    """Pictures with captions, and how both are prepared."""

    columns: tuple[str, ...] = ()
    """Columns of yours by meaning, such as image=photo text=caption; `texts` holds a list of captions a picture."""
    tokenizer: str = "caption"
    """`caption`, byte pairs of words in lower case, made from the data; `bpe` or `byte`; or a folder, run or hub id
    that has one."""
    vocabulary: Count | None = None
    """Number of ids of a tokenizer of byte pairs; about four times the square root of the bytes of text when not
    given."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Pace:
    """How large a step is, and how its rate falls."""

    batch: Count | None = None
    """Rows in a step; a hundredth of them, but at most 256, when not given."""
    rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, as it is: no rule scales it by the batch."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises from 0."""
    schedule: Literal["cosine", "linear", "trapezoid"] = "cosine"
    """How the rate falls after that; a trapezoid stays flat until the cool-down, and --more goes on from there."""
    cooldown: Share = 0.2
    """Share of the steps in which a trapezoid falls."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Optimizer(Pace):
    """How weights are changed."""

    batch: Count = 256
    """Rows in a step, over all processes."""
    micro: Count = 1
    """Parts that a process splits its share of the batch into, to save memory; refused where rows are compared."""
    optimizer: Literal["adamw", "sgd", "lars", "muon"] = "adamw"
    """Muon is for hidden matrices, the rest goes to AdamW."""
    matrix_rate: Annotated[float, Field(gt=0)] = 0.02
    """Peak rate of the matrices that Muon changes."""
    decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay; never on norms, biases and other vectors."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What the rate is multiplied with from each layer of a network to the one below; 0.75 suits --init."""
    momentum: Share = 0.9
    """Momentum of SGD, LARS and Muon."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of AdamW's two averages."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0 for any."""


@validated(frozen=True, kw_only=True, config=STRICT)
class Budget:
    """How long to train: exactly one of the three."""

    steps: Count | None = None
    """Number of steps."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Number of passes over the training rows."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of training; a few steps are timed and undone, and the planned steps written down."""

    def __post_init__(self) -> None:
        """Refuse none and two."""
        if not one_of(self, ("steps", "epochs", "minutes")):
            raise ValueError("give exactly one of --steps, --epochs, --minutes; given: none")


@validated(frozen=True, kw_only=True, config=STRICT)
class Watch:
    """What is written while a run goes on."""

    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    check_every: Count | None = None
    """Steps between held-out losses; a tenth of the run when not given."""
    save_every: Count | None = None
    """Steps between checkpoints; a tenth of the run when not given."""
    keep_every: Count | None = None
    """Keep every checkpoint at a multiple of this many steps, beside the last two."""
    held_out_rows: Count = 2048
    """At most so many held-out rows are scored during training; a hundredth of its samples in a short run."""
    eval_data: str | None = None
    """Labelled data for a kNN score during training; the labels of the training data when not given, if it has any."""
    eval_every: Count | None = None
    """Steps between two such scores; none are made when not given."""
    tracker: Literal["tensorboard", "wandb"] | None = None
    """Send every line of metrics there too; the package of that name must be installed."""

    def __post_init__(self) -> None:
        """Refuse data that would never be looked at."""
        if self.eval_data and not self.eval_every:
            raise ValueError(f"--eval-data {self.eval_data} needs --eval-every STEPS")


@validated(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """A run: everything that its result depends on, hardware aside."""

    objective: str
    """Name of a file in `objectives/`, or a path to one of yours."""
    config: Any
    """The objective's own settings: its `Config`."""
    data: ImageData | TextData
    backbone: Backbone
    optimizer: Pace
    budget: Budget
    watch: Watch = Field(default_factory=Watch)
    seed: int = 0
    """Seed of everything random."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the network's arithmetic; bfloat16 where the device is fast with it, when not given."""
