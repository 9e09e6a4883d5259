"""Supervised fine-tuning: teach a model the tags, searching and reading before it learns by reinforcement.

- `config`: the [sft] section of a run: which demonstrations, and how they are trained
- `demonstrate`: programmatic trajectories: a plan carried out with the real retriever, thoughts included
- `plans`: questions to search plans: what has to be looked up, in which order, and what it should give
- `recorded`: recorded rollouts of Search-R1's evaluation to demonstrations
- `templates`: the wording of demonstrations: templates of ours, so that no two thoughts need be alike
- `tokenize`: demonstrations to token ids and loss masks, laid out exactly as a rollout lays out an episode
- `trainer`: the Hugging Face Trainer for demonstrations: token-mean loss over what the model writes, and nothing else
"""
