"""Which of several runs is best on labelled data, and whether it was worth it, as one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfsup.eval.labelled import Labelled
from selfsup.eval.probes import Score, answers
from selfsup.eval.verdict import ERROR, gains, sentence


@dataclass(frozen=True)
class Standing:
    """What the scores of several runs come to.

    Attributes:
        best: name of the run with the highest accuracy of linear probes, on average over the amounts of labels.
        worth: whether it has gained over all alternatives anywhere.
        said: the line.
    """

    best: str
    worth: bool
    said: str


def standing(
    labelled: Labelled, runs: Mapping[str, Sequence[Score]], baselines: Mapping[str, Sequence[Score]]
) -> Standing:
    """The best run, what it is ahead of the next by, and its gains over the best baseline.

    The best of several is chosen by the very scores that it is then judged by, so its intervals are as wide as those of
    all runs together would be.

    Args:
        labelled: the data.
        runs: scores by name, those of each at the same amounts of labels.
        baselines: the same of the alternatives.
    """
    linear = {name: [one for one in scores if one.task == "linear"] for name, scores in runs.items()}
    mean = {name: sum(float(one.right.double().mean()) for one in scores) for name, scores in linear.items()}
    best, error = max(mean, key=mean.__getitem__), ERROR / len(runs)
    own = [replace(one, representation="run") for one in runs[best]]
    others = [replace(one, representation=name) for name, scores in baselines.items() for one in scores]
    worth, said = sentence(gains(answers(labelled, own + others), error))
    ahead = best
    if len(runs) > 1:
        rivals = [replace(one, representation=name) for name in linear if name != best for one in linear[name]]
        lead = gains(answers(labelled, [one for one in own if one.task == "linear"] + rivals), error)[-1]
        unsure = ", not told apart" if lead.kind == "none" else ""
        over = f"{lead.mean:+.1f} ± {lead.half:.1f} points {lead.where} against {lead.over}{unsure}"
        ahead = f"best of {len(runs)} is {best} ({over})"
    return Standing(best, worth, f"{ahead}; {said}")
