"""A process of a distributed run leaves its process group before the interpreter ends."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit, sys
import torch.distributed
from calibadv.training.process_group import leave_process_group_at_exit

atexit.register(lambda: print("there" if torch.distributed.is_initialized() else "left"))  # runs last
if "register" in sys.argv:
    leave_process_group_at_exit()
    leave_process_group_at_exit()
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
"""


def state_at_exit(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_group_is_left_before_the_interpreter_ends(tmp_path: Path) -> None:
    assert state_at_exit(str(tmp_path / "without")) == "there"
    assert state_at_exit(str(tmp_path / "with"), "register") == "left"
