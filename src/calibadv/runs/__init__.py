"""The verbs as functions: what the command line does, for Python callers.

- `agent`: an agent that answers questions: which model, which documents, and opening both
- `convert`: an index of another kind, or the FAISS file of one, without encoding again
- `demonstrations`: collect demonstrations for a run: by script, from recorded traces, from stored files
- `evaluate`: evaluate the model of a config on its questions, and keep every finished rollout
- `index_quality`: what an index finds of what questions need, and what its corpus has at all
- `init`: the configs that come with calibadv, to start a run of one's own from
- `index`: make a corpus searchable, by words, by vectors, or by both
- `progress`: being told how far work of several parts is
- `provenance`: what a run was made with, in ``run.json``
- `report`: figures and one page from what a run or a lab wrote
- `sft`: one supervised run: demonstrations, training, a Hugging Face folder, a look at the format
- `step_lines`: how a training run shows its steps
- `stoppable`: an evaluation that ends early says what it keeps
- `targets`: what a path or name means: a config, a run, an arm of a lab, or a model
- `train`: one training run: folder, data, retriever, model, trainer, evaluations, checkpoints
- `trainer_args`: the settings of a run in TRL's terms
"""
