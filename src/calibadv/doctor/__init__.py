"""Before a long run: what would stop it, what would make it teach nothing, what it would take.

- ``examine(config, probe=N)`` gives the checks one by one; ``check`` says what a check is
- ``tokenizer``, ``data``, ``retriever``, ``resources`` (with the formulas of ``memory``) and ``probe`` make them
"""

from calibadv.doctor.check import Blocked, Check, Level, worst
from calibadv.doctor.examine import examine

__all__ = ["Blocked", "Check", "Level", "examine", "worst"]
