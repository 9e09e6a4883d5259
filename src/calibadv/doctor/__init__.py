"""Before a long run: what would stop it, what would make it teach nothing, what it would take.

- `check`: what one check says: fine, doubtful, or in the way, with what to do about it
- `check_data`: are the questions there, enough of them, and apart from the test questions?
- `check_resources`: memory and disk: what the run would take, and what there is
- `check_retriever`: does the retriever answer, how fast, and does its index belong to its encoder?
- `check_tokenizer`: do the tags survive the tokenizer, and does the chat template leave what was said alone?
- `memory`: how much memory a run needs, from the shape of its model: arithmetic only, in bytes
- `probe`: play some questions with the policy as it is: is there anything to learn from, and is the evidence to be
  found?
- `run_checks`: all checks of a run in order; what cannot be checked because something before it failed is left out
"""

from calibadv.doctor.check import Blocked, Check, Level, worst
from calibadv.doctor.run_checks import examine

__all__ = ["Blocked", "Check", "Level", "examine", "worst"]
