"""Everything that can be told from the settings alone: packages, the model's path, the run's folder, batches."""

from __future__ import annotations

from calibadv.config import RunConfig
from calibadv.config.run_folder import check_run_folder
from calibadv.doctor.check import Check
from calibadv.io.packages import require_packages
from calibadv.models.config import check_trainable_dtype
from calibadv.models.load import resolve_model

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


def check_settings(config: RunConfig) -> Check:
    """Nothing is loaded, no server and no hub is asked."""
    config.check_trainable()
    require_packages(*PACKAGES, extra="train", what="training")
    if config.lora.rank:
        require_packages("peft", extra="lora", what="lora.rank")
    check_trainable_dtype(config.model)
    resolve_model(config.model)
    check_run_folder(config, resume=False)
    settings = config.training
    batches = settings.steps // settings.updates_per_batch
    rows = settings.questions_per_batch * settings.num_rollouts
    return Check(
        name="settings",
        summary=f"{config.algorithm.name}: {batches} batches of {settings.questions_per_batch} questions x "
        f"{settings.num_rollouts} rollouts ({rows:,}), {settings.updates_per_batch} optimizer steps each",
        facts={"batches": batches, "rollouts_per_batch": rows},
    )
