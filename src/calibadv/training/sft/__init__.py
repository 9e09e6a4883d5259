"""Supervised fine-tuning: teach a model the tags, searching and reading before it learns by reinforcement.

- ``settings``: the [sft] section of a run
- ``plans`` (question -> the searches that answer it), ``phrases`` (wording), ``demonstrate`` (plan + retriever ->
  trajectory) and ``traces`` (what other systems recorded) make demonstrations; ``data`` collects them
- ``examples`` (trajectory -> token ids and loss mask, laid out as in a rollout), ``trainer`` and ``run`` train

Importing the package loads nothing heavy.
"""
