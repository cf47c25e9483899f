"""Types of settings, and the flags that set them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Size = Literal["nano", "tiny", "small", "base"]
FLAG = {"source": "data"}  # fields whose flag has another name


def flag_of(field: str) -> str:
    """The command-line flag of a field."""
    return "--" + FLAG.get(field, field).replace("_", "-")


def chunk_flags(config: object) -> list[str]:
    """Flags of an objective's settings that let a batch pass the network in parts."""
    return [flag_of(name) for name in vars(config) if name.split("_")[-1] == "chunk"]


def one_of(settings: object, names: tuple[str, ...]) -> list[str]:
    """The named settings that are given; raises `ValueError` for more than one."""
    given = [flag_of(name) for name in names if vars(settings)[name] is not None]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join(map(flag_of, names))}; given: {', '.join(given)}")
    return given
