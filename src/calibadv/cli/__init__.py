"""The calibadv command: parse, call, print.

- `agent`: what ``calibadv ask`` and ``calibadv serve`` share: the options that say which agent is meant
- `ask`: put a question to an agent and watch it think, search and answer
- `corpus`: make a corpus folder out of files, describe it, check it
- `data`: question files for training and evaluation
- `doctor`: check a run before it starts, and say in plain words what would go wrong
- `eval`: ``calibadv eval`` and its sub-commands
- `index`: make, look at, check and measure the indexes of a corpus
- `lab`: the whole method on a laptop, and the lab's tools (pretrain, probe, world)
- `main`: the ``calibadv`` command: its help, its subcommands, and errors as one clear line with an exit code
- `init`: copy a config to start from
- `options`: options of commands, derived from the config classes: type, default and help text are those of the fields
- `report`: figures and one page from what a run or a lab wrote
- `retriever`: the retrieval server
- `serve`: an agent behind OpenAI's chat endpoints, with a page to ask from
- `sft`: teach a model the tags, searching and reading from demonstrations, before reinforcement
- `train`: one training run from a config file
- `trajectories`: read what an agent wrote, turn by turn, in the terminal
"""
