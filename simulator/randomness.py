"""Random numbers keyed by what they are for, so that a later end never changes an earlier week."""

from __future__ import annotations

import numpy as np

STATIC, WEEK_OF_CHUNK, WEEK_OF_MARKET, TUTORS, SIGNUPS, AGREEMENTS = range(6)


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments (all at least 0)."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, purpose, *key])))


def pick(rng: np.random.Generator, shares: np.ndarray | tuple[float, ...], size: int) -> np.ndarray:
    """``size`` category codes (int8) drawn with the given shares, which add up to 1."""
    edges = np.cumsum(np.asarray(shares, dtype=float))
    return np.minimum(np.searchsorted(edges, rng.random(size), side="right"), len(edges) - 1).astype(np.int8)


def rank_within(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2 … within each run of equal neighbours: [3, 3, 5, 5, 5] gives [0, 1, 0, 1, 2]."""
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    position = np.arange(len(groups))
    starts = np.concatenate(([True], groups[1:] != groups[:-1]))
    return position - np.maximum.accumulate(np.where(starts, position, 0))
