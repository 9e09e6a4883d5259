"""Questions and trajectories as files: one home for their formats, the [data] section, and their preparation.

- `config`: which questions are asked: the [data] and [reward] sections of a run
- `prepare`: question files for training and evaluation: from the published collection, or from folders laid out like
  it
- `question_order`: the door for the order of questions: ``training.order``, and the mixture of files by
  ``data.train_weights``
- `questions`: QA data sets to `Question`: FlashRAG-style rows in JSON lines (plain or gzipped) or parquet
- `run_files`: the files in a run's folder: what they are called, and reading its two logs
- `trajectory_files`: trajectories on disk: JSON lines (``.jsonl``, ``.jsonl.gz``) and parquet, both with a format
  version
"""
