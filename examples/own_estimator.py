"""GiGPO (arXiv 2505.10978) as an estimator of one's own: credit within a question, and within a state of a question.

    calibadv train run.toml --set calibration.estimator=own_estimator:gigpo
    python examples/own_estimator.py

GiGPO adds to GRPO's advantage of the trajectory one of the turn: turns of different rollouts that were taken in the
same state are compared with each other. The state of a search agent is what it has found so far, so a turn's state is
the set of documents before it; every first turn is in the same state. A turn's return is its trajectory's reward,
discounted by the turns still to come. States that only one rollout reached have nothing to compare and add nothing.
"""

from collections import defaultdict

import numpy as np

from calibadv.advantage import CalibrationConfig, CreditBatch, calibrate

OMEGA = 1.0  # weight of the turns' advantage
DISCOUNT = 0.95  # per turn


def gigpo(batch: CreditBatch) -> np.ndarray:  # [N, K]
    """Advantage of the trajectory in its group plus OMEGA times that of the turn among the turns of its state."""
    advantages_NK = np.zeros_like(batch.num_tokens_NK)
    for members in batch.groups():
        advantages_NK[members] += normalised(batch.rewards_N[members])[:, None]
        states: dict[frozenset[str], list[tuple[int, int, float]]] = defaultdict(list)
        for n in members:
            num_turns = int((batch.num_tokens_NK[n] > 0).sum())
            found: set[str] = set()
            for k in range(num_turns):
                states[frozenset(found)].append((n, k, batch.rewards_N[n] * DISCOUNT ** (num_turns - 1 - k)))
                found.update(batch.document_ids_NK[n][k] if k < len(batch.document_ids_NK[n]) else ())
        for turns in states.values():
            for (n, k, _), advantage in zip(turns, normalised(np.array([value for *_, value in turns])), strict=True):
                advantages_NK[n, k] += OMEGA * advantage
    return advantages_NK


def normalised(values: np.ndarray) -> np.ndarray:
    """Distance from the mean in standard deviations; 0 where nothing differs."""
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


if __name__ == "__main__":
    advantages_NK, _ = calibrate(
        [1.0, 0.0, 0.0],
        group_ids=["q", "q", "q"],
        correctness_NK=None,
        num_tokens_NK=[[20, 20, 8], [20, 20, 8], [20, 8, 0]],
        document_ids_NK=[[["d1"], ["d2"], []], [["d1"], ["d9"], []], [["d5"], []]],
        config=CalibrationConfig.plain(),
        estimator=gigpo,
    )
    # The second rollout reached the state {d1} as well and went wrong there: its second turn is blamed most.
    print(advantages_NK.round(2))
