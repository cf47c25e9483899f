"""selfsup: models from data without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from selfsup.data.draw import Draw
    from selfsup.data.reader import Reader
    from selfsup.data.source import open_source
    from selfsup.encoder import Encoder
    from selfsup.encoder import load_encoder as load
    from selfsup.errors import UserError
    from selfsup.eval.card import evaluate
    from selfsup.exports import export
    from selfsup.objective import Objective, recipe
    from selfsup.recipes import Recipe
    from selfsup.run import Run
    from selfsup.search.index import Index
    from selfsup.training import resume, train

# Imported when first asked for, so that `import selfsup` costs nothing and does nothing.
_PLACES = {
    "Draw": "data.draw",
    "Encoder": "encoder",
    "Index": "search.index",
    "Objective": "objective",
    "Reader": "data.reader",
    "Recipe": "recipes",
    "Run": "run",
    "UserError": "errors",
    "evaluate": "eval.card",
    "export": "exports",
    "load": "encoder",
    "open_source": "data.source",
    "recipe": "objective",
    "resume": "training",
    "train": "training",
}

__all__ = [
    "Draw", "Encoder", "Index", "Objective", "Reader", "Recipe", "Run", "UserError",
    "evaluate", "export", "load", "open_source", "recipe", "resume", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'selfsup' has no attribute {name!r}")
    module = import_module(f"selfsup.{_PLACES[name]}")
    return vars(module)["load_encoder" if name == "load" else name]
