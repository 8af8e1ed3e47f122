"""Hits of several searches as one list, by their ranks.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): scores of different models are
not comparable, their orders are.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentcy_ray.retrieval.queries import Hit

K = 60
"""The constant of the paper: how little the first ranks outweigh the next ones."""


def fused(answers: Sequence[Sequence[Hit]], top_k: int) -> tuple[Hit, ...]:
    """The best ``top_k`` entities of ``answers``, each a list of hits, best first.

    Returns:
        Hits with ``score`` in 0–1, 1 for what is first in every list. What else a hit shows comes
        from the list in which it stands highest.
    """
    scores: dict[str, float] = {}
    shown: dict[str, tuple[int, Hit]] = {}
    for hits in answers:
        for rank, hit in enumerate(hits, start=1):
            scores[hit.node_id] = scores.get(hit.node_id, 0.0) + 1 / (K + rank)
            if hit.node_id not in shown or rank < shown[hit.node_id][0]:
                shown[hit.node_id] = rank, hit
    best = sorted(scores, key=lambda node_id: (-scores[node_id], node_id))[:top_k]
    most = len(answers) / (K + 1)
    return tuple(
        shown[node_id][1].model_copy(update={"score": scores[node_id] / most}) for node_id in best
    )
