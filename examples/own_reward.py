"""Train the lab's agent for two steps with a reward of one's own: right answers count, each search costs a little."""

# %% The reward sees the whole trajectory.
import tempfile
from pathlib import Path

import calibadv
from calibadv.lab import LabWorld, write_world
from calibadv.rewards import f1_score


def brief_and_right(trajectory: calibadv.Trajectory) -> float:
    return f1_score(trajectory.answer or "", trajectory.question.golden_answers) - 0.05 * len(trajectory.search_turns)


# %% Two optimizer steps over a small encyclopedia.
folder = Path(tempfile.mkdtemp())
write_world(LabWorld.make(7, size=60), folder)
files = [f"data.root={folder}", 'data.train=["questions.train.jsonl"]', "retrieval.corpus=corpus.jsonl"]
small = ["training.steps=2", "training.eval_every=0", f"training.output={folder}/run"]
config = calibadv.load_config("configs/lab.toml", overrides=[*files, *small])
run = calibadv.train(config, reward=brief_and_right)
print(f"mean reward {calibadv.read_metrics(run)[0]['reward']:.3f}")
