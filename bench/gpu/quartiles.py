"""Median and quartiles: what a timing on a machine with other work on it is reported by."""

import math
from typing import NamedTuple


class Quartiles(NamedTuple):
    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values):
        """Quantiles of Hyndman and Fan's type 7, as bench/Measurement/Quartiles.cs has them."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("quartiles need at least one value")
        if any(math.isnan(value) for value in ordered):
            raise ValueError("quartiles of NaN are not defined")
        return cls(*(quantile(ordered, q) for q in (0.5, 0.25, 0.75)))


def quantile(ordered, q):
    rank = q * (len(ordered) - 1)
    below = int(rank)
    fraction = rank - below
    return ordered[below] if fraction == 0 else (1 - fraction) * ordered[below] + fraction * ordered[below + 1]
