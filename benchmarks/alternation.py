"""Timing things against each other in alternating rounds, so that load that drifts falls on all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

Step = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """Seconds of each round; round i of the reference ran right before round i of the subject."""

    subject_s: Sequence[float]
    reference_s: Sequence[float]

    @property
    def subject(self) -> float:
        return median(self.subject_s)

    @property
    def reference(self) -> float:
        return median(self.reference_s)

    @property
    def relative_speed(self) -> float:
        """The subject's speed over the reference's: the median of the rounds' ratios."""
        return median(r / s for r, s in zip(self.reference_s, self.subject_s, strict=True))


def seconds(step: Step) -> float:
    started = perf_counter()
    step()
    return perf_counter() - started


def alternate(*steps: Step, rounds: int, warmup: int = 1, before: Step | None = None) -> list[list[float]]:
    """The seconds of `rounds` rounds of every step, run in turn, after `warmup` rounds that do not count.

    `before` runs before every step, untimed.
    """
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(warmup + rounds):
        for step, column in zip(steps, times, strict=True):
            if before is not None:
                before()
            column.append(seconds(step))
    return [column[warmup:] for column in times]
