"""``python -m calibadv`` is the ``calibadv`` command."""

import runpy

if __name__ == "__main__":
    # By name, not by import: nothing below the command line imports it.
    runpy.run_module("calibadv.cli.main", run_name="__main__", alter_sys=True)
