"""The calibadv command: parse, call, print.

- `agent_options`: what ``calibadv ask`` and ``calibadv serve`` share: which model, which documents, and opening both
- `ask`: put a question to an agent and watch it think, search and answer
- `corpus`: make a corpus folder out of files, describe it, check it
- `data`: question files for training and evaluation
- `doctor`: check a run before it starts, and say in plain words what would go wrong
- `eval`: ``calibadv eval`` and its sub-commands
- `index`: make, look at, check and measure the indexes of a corpus
- `lab`: the whole method on a laptop, and the lab's tools (pretrain, probe, world)
- `lab_progress`: how the lab's runs are shown while they train, and the table at the end
- `main`: the ``calibadv`` command: its help, its subcommands, and errors as one clear line with an exit code
- `options`: what several commands share: options, the check for missing packages, the config of a run
- `report`: figures and one page from what a run or a lab wrote
- `retriever`: the retrieval server
- `serve`: an agent behind OpenAI's chat endpoints, with a page to ask from
- `sft`: teach a model the tags, searching and reading from demonstrations, before reinforcement
- `terminal`: what a person at a terminal sees: bars with the time left, and plain tables
- `train`: one training run from a config file
- `trajectories`: read what an agent wrote, turn by turn, in the terminal
"""
