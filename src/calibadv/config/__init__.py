"""The configuration of a run: `RunConfig` read from TOML, ``--set`` overrides, the run's folder. Loads nothing heavy.

Settings are documented beside the component they belong to; this package only composes and checks them.
"""

from calibadv.config.data import DataConfig, RewardConfig, load_split
from calibadv.config.folder import check_run_folder, claim_run_folder
from calibadv.config.run import RunConfig

__all__ = ["DataConfig", "RewardConfig", "RunConfig", "check_run_folder", "claim_run_folder", "load_split"]
