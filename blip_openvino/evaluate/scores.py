"""Shares of right results, with their confidence interval."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist


@dataclass(frozen=True)
class Score:
    """How many of the results asked for, at least one, were right; VQA v2's metric counts parts of one."""

    right: float
    asked: int

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.rate:.2f} % ({100 * low:.2f} - {100 * high:.2f})"

    @property
    def rate(self) -> float:
        """The share of right results, from 0 to 1."""
        return self.right / self.asked

    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of the rate, both ends from 0 to 1.

        Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
        Unlike the normal approximation it stays inside 0 to 1, and has a width at 0 % and 100 % too.
        """
        z = NormalDist().inv_cdf(0.975)
        shrink = 1 + z**2 / self.asked
        centre = (self.rate + z**2 / (2 * self.asked)) / shrink
        half = z / shrink * sqrt(self.rate * (1 - self.rate) / self.asked + (z / (2 * self.asked)) ** 2)
        # Rounding could put an end past a rate of 0 or 1.
        return max(0.0, min(centre - half, self.rate)), min(1.0, max(centre + half, self.rate))


def exact_match(found: Sequence[str], expected: Sequence[str]) -> Score:
    """How many texts are equal to the ones expected, or to those of another model; one for each, at least one."""
    return Score(sum(text == right for text, right in zip(found, expected, strict=True)), len(expected))


def scores_by_kind(found: Sequence[str], expected: Sequence[str], kinds: Iterable[str]) -> dict[str, Score]:
    """Exact match of all texts, "all", and of each kind."""
    scores = {"all": exact_match(found, expected)}
    pairs_of = defaultdict(list)
    for text, right, kind in zip(found, expected, kinds, strict=True):
        pairs_of[kind].append((text, right))
    return scores | {kind: exact_match(*zip(*pairs, strict=True)) for kind, pairs in sorted(pairs_of.items())}


Measures = dict[str, dict[str, Score]]
"""By measure, a score for each model: `{"answers, all": {"PyTorch": Score(9658, 9673), "INT8": ...}, ...}`."""


def by_measure(scores: Mapping[str, Mapping[str, Score]]) -> Measures:
    """What each model reached in each measure, measure by measure."""
    measures = defaultdict(dict)
    for name, each in scores.items():
        for measure, score in each.items():
            measures[measure][name] = score
    return dict(measures)
