"""Group-relative advantages: one reward per trajectory in, one advantage per trajectory out (GRPO).

A group is given by explicit ids, in any order; position never matters. Three estimators share one rule set:

- `group_advantages`: GRPO, ``(r - mean) / (std + 1e-6)``, and with ``scale="none"`` Dr. GRPO, ``r - mean``;
- `leave_one_out_advantages`: RLOO, ``r -`` mean of the *other* trajectories of the group.

A trajectory without tokens counts like any other: it was a rollout and it earned its reward. A trajectory that failed
for outside reasons (``included_N`` is False) counts nowhere and gets 0. We depart from the published code in one point:
equal rewards give exactly 0, where float32 rounding there can leave up to 0.056 with one sign for the whole group.

Shape suffixes: N = trajectories of the batch, G = groups of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibadv.errors import ConfigError, DataError

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.intp]
GroupIds: TypeAlias = Sequence[str] | Sequence[int] | NDArray[np.str_] | NDArray[np.integer]

STD_EPSILON = 1e-6
"""Added to the standard deviation, as in GRPO."""


def group_advantages(
    rewards_N: ArrayLike,
    *,
    group_ids: GroupIds,
    included_N: ArrayLike | None = None,
    scale: Literal["std", "none"] = "std",
) -> Floats:
    """Advantage of each trajectory within its group: ``(r - mean) / (std + 1e-6)``.

    A group of one has mean 0 and standard deviation 1, so its advantage is its reward. Source: the paper's GRPO;
    ``scale="none"`` is Dr. GRPO.

    Args:
        rewards_N: One reward for each trajectory.
        group_ids: The question of each trajectory, in any order.
        included_N: False for trajectories that take no part, such as failed ones; None: all take part.
        scale: Divide by the standard deviation ("std"), or do not ("none").

    Returns:
        Advantages [N]; 0 for those that take no part, and exactly 0 where all rewards of a group are equal.

    Raises:
        ConfigError: Another ``scale``.
        DataError: Shapes that do not agree, or a reward that is not finite.

    >>> group_advantages([1.0, 0.0, 0.5, 0.5], group_ids=["a", "a", "b", "b"]).round(3)
    array([ 0.707, -0.707,  0.   ,  0.   ])
    """
    if scale not in ("std", "none"):
        raise ConfigError(f"scale must be one of 'std', 'none', got {scale!r}")
    rewards_N, included_N = check_rewards(rewards_N, included_N=included_N)
    group_N = group_index(group_ids, num_trajectories=len(rewards_N))
    size_G = np.bincount(group_N, included_N)
    alone_G = size_G <= 1
    mean_G = np.bincount(group_N, rewards_N) / np.maximum(size_G, 1)
    mean_G[alone_G] = 0.0
    centred_N = np.where(included_N, rewards_N - mean_G[group_N], 0.0)
    if scale == "std":
        # Divisor size - 1: the sample deviation, as in the reference.
        std_G = np.sqrt(np.bincount(group_N, centred_N**2) / np.maximum(size_G - 1, 1))
        std_G[alone_G] = 1.0
        centred_N /= std_G[group_N] + STD_EPSILON
    return np.where(_has_signal(rewards_N, included_N, group_N, alone_G), centred_N, 0.0)


def leave_one_out_advantages(
    rewards_N: ArrayLike, *, group_ids: GroupIds, included_N: ArrayLike | None = None
) -> Floats:
    """Advantage of each trajectory against the mean reward of the others in its group (RLOO).

    A group of one has no others: its advantage is its reward. Source: RLOO (Ahmadian et al., 2024); not in the paper.

    Args:
        rewards_N: One reward for each trajectory.
        group_ids: The question of each trajectory, in any order.
        included_N: False for trajectories that take no part; None: all take part.

    Returns:
        Advantages [N]; 0 for those that take no part.

    Raises:
        DataError: Shapes that do not agree, or a reward that is not finite.

    >>> leave_one_out_advantages([1.0, 0.0, 0.5], group_ids=[7, 7, 7])
    array([ 0.75, -0.75,  0.  ])
    """
    rewards_N, included_N = check_rewards(rewards_N, included_N=included_N)
    group_N = group_index(group_ids, num_trajectories=len(rewards_N))
    size_G = np.bincount(group_N, included_N)
    others_N = np.bincount(group_N, rewards_N)[group_N] - rewards_N
    centred_N = rewards_N - others_N / np.maximum(size_G - 1, 1)[group_N]
    return np.where(_has_signal(rewards_N, included_N, group_N, size_G <= 1), centred_N, 0.0)


def group_index(group_ids: GroupIds, *, num_trajectories: int) -> Indices:
    """Number the groups 0, 1, ... by first appearance: one number per trajectory.

    >>> group_index(["q2", "q1", "q2"], num_trajectories=3)
    array([0, 1, 0])
    """
    ids = group_ids.tolist() if isinstance(group_ids, np.ndarray) else list(group_ids)
    if len(ids) != num_trajectories:
        raise DataError(f"group_ids has {len(ids)} entries for {num_trajectories} trajectories; give one id for each")
    for kind in {type(i) for i in ids}:
        # Other objects may compare by identity (tensors do): every trajectory would be a group of its own.
        if not issubclass(kind, (str, int, np.integer)):
            raise DataError(f"group_ids must be strings or integers, got {kind.__name__}; convert them first")
    number: dict[object, int] = {}
    return np.fromiter((number.setdefault(i, len(number)) for i in ids), dtype=np.intp, count=len(ids))


def check_rewards(
    rewards_N: ArrayLike, *, included_N: ArrayLike | None, name: str = "rewards_N"
) -> tuple[Floats, Bools]:
    """Rewards (or scores) as float64 with 0 for trajectories that take no part, and who takes part."""
    rewards = np.asarray(rewards_N, dtype=np.float64)
    if rewards.ndim != 1:
        raise DataError(f"{name} must have one dimension, got shape {rewards.shape}")
    included = np.ones(rewards.shape, dtype=bool) if included_N is None else np.asarray(included_N)
    if included.shape != rewards.shape or included.dtype != bool:
        raise DataError(f"included_N must hold {len(rewards)} booleans, got {included.dtype} of shape {included.shape}")
    bad = np.flatnonzero(included & ~np.isfinite(rewards))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {rewards[bad[0]]}; fix it, or set included_N to False there")
    return np.where(included, rewards, 0.0), included


def _has_signal(rewards_N: Floats, included_N: Bools, group_N: Indices, alone_G: Bools) -> Bools:
    """Whether a trajectory takes part and its group holds more than one reward value (or is a group of one)."""
    any_reward_G = np.zeros(len(alone_G))
    any_reward_G[group_N[included_N]] = rewards_N[included_N]
    differs_N = included_N & (rewards_N != any_reward_G[group_N])
    signal_G = alone_G | (np.bincount(group_N, differs_N, minlength=len(alone_G)) > 0)
    signal_N: Bools = included_N & signal_G[group_N]
    return signal_N
