import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.training.overrides.micro_batches import micro_batches


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
@given(data=st.data(), mini=st.integers(1, 3), micro=st.integers(1, 3), size=st.integers(1, 4), drop=st.booleans())
def test_rows_with_signal_are_trained_exactly_once_in_their_mini_batch(
    data: st.DataObject, mini: int, micro: int, size: int, drop: bool
) -> None:
    rows = mini * micro * size
    advantage = data.draw(st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=rows, max_size=rows))
    full = batch(
        data.draw(st.lists(lengths, min_size=rows, max_size=rows)),
        data.draw(st.lists(lengths, min_size=rows, max_size=rows)),
        advantage,
    )
    pieces = micro_batches(full, num_mini_batches=mini, per_mini_batch=micro, drop_zero_rows=drop)
    assert len(pieces) == mini * micro
    for m in range(mini):
        ids = [
            int(row.max()) - 2000 for piece in pieces[m * micro : (m + 1) * micro] for row in piece["completion_ids"]
        ]
        wanted = range(m * micro * size, (m + 1) * micro * size)
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(wanted)
        assert {row for row in wanted if advantage[row] or not drop} <= set(ids)
    for piece in pieces:
        assert len(piece["completion_ids"]) >= 1
        assert piece["prompt_mask"].any(0).all()
        assert piece["completion_mask"].any(0).all()
        assert piece["advantages"].shape == piece["completion_ids"].shape
        assert piece["num_items_in_batch"] == full["num_items_in_batch"]


def test_rows_of_a_mini_batch_are_ordered_by_length_so_that_padding_is_small() -> None:
    full = batch([2, 2, 2, 2], [9, 1, 8, 2], [1.0, 1.0, 1.0, 1.0])
    short, long = micro_batches(full, num_mini_batches=1, per_mini_batch=2, drop_zero_rows=True)
    assert short["completion_ids"].shape == (2, 2)
    assert long["completion_ids"].shape == (2, 9)
