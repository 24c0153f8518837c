"""Whether a look model may replace the one that serves. Pure: what both find goes in, a decision comes out.

A look model that was never trained is compared like any other: it finds products too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import group_means, middle
from model.gate import Check, Decision
from model.gate_policy import LookGatePolicy
from model.retrieval import Catalogue, Integers, exact_search, wrong_ahead


@dataclass(frozen=True)
class LookAnswers:
    """What a look model puts first for Q pictures that ask, with the whole catalogue to choose from."""

    finds_product: NDArray[np.bool_]
    """Q: the nearest picture shows the same product."""
    finds_kind: NDArray[np.bool_]
    """Q: the nearest picture of another product is of the same kind."""
    has_kind: NDArray[np.bool_]
    """Q: another product is of the picture's kind, so that `finds_kind` says something."""
    groups: NDArray[np.int64]
    """Q: the number of the picture's product."""


def answers_of(embeddings: NDArray[np.floating], catalogue: Catalogue, held_out: NDArray[np.bool_]) -> LookAnswers:
    """The held-out pictures of products with two pictures or more ask; all N answer.

    Args:
        embeddings: N×E.
        catalogue: what the N pictures show.
        held_out: N, from `model.look_training.held_out`.
    """
    queries: Integers = np.flatnonzero(held_out & catalogue.of_several_pictures())
    by_product, by_kind = wrong_ahead(exact_search(embeddings), catalogue, queries, 1)
    has_kind = catalogue.of_several_products()[queries]
    return LookAnswers(by_product < 1, by_kind < 1, has_kind, catalogue.product[queries])


def decide_look(candidate: LookAnswers, incumbent: LookAnswers, policy: LookGatePolicy) -> Decision:
    """Promotes a candidate that finds products better than the incumbent and kinds not much worse.

    Args:
        candidate: asked with pictures of products that it was not fitted to.
        incumbent: asked with the same pictures; one that was never trained is an incumbent too.
        policy: the thresholds.
    """
    if not np.array_equal(candidate.groups, incumbent.groups):
        return Decision((Check(False, "incumbent: expected asked with the same pictures, found others"),))
    products = len(np.unique(candidate.groups))
    enough = Check(
        products >= policy.least_products,
        f"held-out products with two pictures: expected at least {policy.least_products}, found {products}",
    )
    if not enough.passed:
        return Decision((enough,))
    return Decision(
        (enough, *_products_better(candidate, incumbent, policy), _kinds_kept(candidate, incumbent, policy))
    )


def _products_better(candidate: LookAnswers, incumbent: LookAnswers, policy: LookGatePolicy) -> tuple[Check, Check]:
    ours, theirs = candidate.finds_product, incumbent.finds_product
    gain = ours.astype(np.int64) - theirs
    low, _ = middle(group_means(gain, candidate.groups, policy.bootstrap_samples, policy.bootstrap_seed)) or (-1.0, 1.0)
    better = Check(
        bool(gain.mean() > 0),
        f"same product first: expected above {theirs.mean():.3f} (the incumbent), found {ours.mean():.3f}",
    )
    surely = Check(
        low >= policy.least_product_gain - 1e-9,
        f"same product first, gain over the incumbent, lower 95% bound: expected at least "
        f"{policy.least_product_gain:.3f}, found {low:.3f}",
    )
    return better, surely


def _kinds_kept(candidate: LookAnswers, incumbent: LookAnswers, policy: LookGatePolicy) -> Check:
    asked = candidate.has_kind
    if not asked.any():
        return Check(True, "same kind first: no kinds are known, not compared")
    ours, theirs = (float(answers.finds_kind[asked].mean()) for answers in (candidate, incumbent))
    return Check(
        ours >= theirs - policy.kind_loss - 1e-9,
        f"same kind first: expected at least {theirs - policy.kind_loss:.3f} (the incumbent), found {ours:.3f}",
    )
