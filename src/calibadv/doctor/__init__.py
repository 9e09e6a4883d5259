"""Before a long run: what would stop it, what would leave it without a signal, what it would take.

- `check`: what one check says: ok, a warning or a blocker, with what to do about it
- `check_context`: whether the episodes that the settings allow fit into the model's context
- `check_data`: are the questions there, enough of them, and apart from the test questions?
- `check_disk`: what checkpoints and the trained model take, and what is free
- `check_memory`: what the run would take, and what the device has
- `check_probe`: play some questions with the policy as it is: is there a signal, and is the evidence to be found?
- `check_retriever`: does the retriever answer, how fast, and does its index belong to its encoder?
- `check_settings`: everything that can be told from the settings alone
- `check_tokenizer`: do the tags survive the tokenizer, can it spell the questions, and does the chat template keep what
  was said?
- `memory`: how much memory a run needs, from the shape of its model: arithmetic only, in bytes
- `plan`: plan before you pay: what a run would take on GPUs that are not here
- `run_checks`: all checks of a run in order; what cannot be checked because something before it failed is left out
"""

from calibadv.doctor.check import Blocked, Check, Level, verdict, worst
from calibadv.doctor.run_checks import examine

__all__ = ["Blocked", "Check", "Level", "examine", "verdict", "worst"]
