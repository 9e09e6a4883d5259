"""The configuration of a run: `RunConfig` composes the sections of all components.

- `changes`: which settings of a run differ from their defaults
- `run_config`: `RunConfig`: the configs of all components, composed; read from TOML, changed with ``--set``, printed
  and saved
- `run_folder`: A run's folder belongs to one run: a new run needs a new folder, a resumed one must be the run that is
  there
- `toml`: from a mapping (TOML) to frozen dataclasses: unknown keys and wrong types are errors that name the key
"""

from calibadv.config.run_config import RunConfig

__all__ = ["RunConfig"]
