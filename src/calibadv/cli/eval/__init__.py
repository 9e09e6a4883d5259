"""``calibadv eval`` and its sub-commands.

- `diff`: two evaluations of the same questions, paired
- `options`: what ``calibadv eval``, ``eval diff`` and ``eval score`` share: the form of tables, and the judge
- `run`: evaluate a model, keep every finished rollout, continue after an interruption
- `score`: figures for rollouts that exist already
"""
