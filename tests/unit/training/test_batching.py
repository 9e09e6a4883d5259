"""A batch cut into passes: what each holds, and what it weighs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.training.overrides.micro_batches import plan_passes, trimmed


def batch(prompt_lengths: list[int], completion_lengths: list[int], advantage: list[float]) -> dict[str, torch.Tensor]:
    rows = len(prompt_lengths)
    prompt, completion = max(prompt_lengths), max(completion_lengths)
    columns_p, columns_c = torch.arange(prompt), torch.arange(completion)
    prompt_mask = (columns_p >= prompt - torch.tensor(prompt_lengths)[:, None]).long()
    completion_mask = (columns_c < torch.tensor(completion_lengths)[:, None]).long()
    row_number = torch.arange(rows)[:, None]
    return {
        "prompt_ids": prompt_mask * (1000 + row_number),
        "prompt_mask": prompt_mask,
        "completion_ids": completion_mask * (2000 + row_number),
        "completion_mask": completion_mask,
        "tool_mask": torch.ones_like(completion_mask),
        "advantages": torch.tensor(advantage)[:, None] * completion_mask,
        "num_items_in_batch": completion_mask.sum(),
    }


lengths = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), mini=st.integers(1, 3), budget=st.integers(1, 60), drop=st.booleans(), by_tokens=st.booleans())
def test_rows_with_signal_are_trained_exactly_once_in_their_mini_batch(
    data: st.DataObject, mini: int, budget: int, drop: bool, by_tokens: bool
) -> None:
    rows = data.draw(st.integers(mini, 12))
    advantage = data.draw(st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=rows, max_size=rows))
    full = batch(
        data.draw(st.lists(lengths, min_size=rows, max_size=rows)),
        data.draw(st.lists(lengths, min_size=rows, max_size=rows)),
        advantage,
    )
    numbers = [row * mini // rows for row in range(rows)]
    plan = plan_passes(
        full, mini_batches=numbers, num_mini_batches=mini, budget=budget, drop_zero_rows=drop, by_tokens=by_tokens
    )
    assert len(plan) == mini
    for number, passes in enumerate(plan):
        members = [row for row in range(rows) if numbers[row] == number]
        trained = [row for one in passes for row in one.rows]
        assert sorted(trained) == [row for row in members if advantage[row] or not drop]
        weights = full["completion_mask"].sum(1).tolist() if by_tokens else [1] * rows
        for one in passes:
            assert one.most_rows == max(1, len(one.rows))
            assert one.share * sum(weights[r] for r in members) == pytest.approx(sum(weights[r] for r in one.rows))
            piece = trimmed(full, one.rows)
            assert len(piece["completion_ids"]) == one.most_rows
            assert piece["prompt_mask"].any(0).all()
            assert piece["completion_mask"].any(0).all()
            assert piece["advantages"].shape == piece["completion_ids"].shape
            if not one.rows:
                assert not piece["tool_mask"].any()
            else:
                assert (piece["completion_ids"].amax(1) - 2000).tolist() == one.rows


def test_rows_of_a_mini_batch_are_ordered_by_length_so_that_padding_is_small() -> None:
    full = batch([2, 2, 2, 2], [9, 1, 8, 2], [1.0, 1.0, 1.0, 1.0])
    (passes,) = plan_passes(
        full, mini_batches=[0] * 4, num_mini_batches=1, budget=22, drop_zero_rows=True, by_tokens=True
    )
    assert [one.rows for one in passes] == [[0, 2], [3, 1]]
    assert [trimmed(full, one.rows)["completion_ids"].shape for one in passes] == [(2, 9), (2, 2)]
