"""``calibadv eval`` and its sub-commands.

- `diff`: two evaluations of the same questions, paired
- `judge_options`: the options of the optional judge, shared by ``calibadv eval`` and ``calibadv eval score``
- `run`: evaluate a model, keep every finished rollout, continue after an interruption
- `score`: figures for rollouts that exist already
- `target`: what ``calibadv eval`` is asked to evaluate: model, questions, retriever and settings from a target and
  options
"""
