"""``python -m calibadv``: the command line."""

from calibadv.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
