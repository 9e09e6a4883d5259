"""`run_lab`: train several arms from the same base policy on the same questions, side by side, and compare them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from calibadv.lab.config import LabConfig, arm_config
from calibadv.lab.folder import DEFAULT, locked, new_folder
from calibadv.lab.jobs import Job, Watch, check_jobs, play
from calibadv.lab.questions import write_world
from calibadv.lab.results import recorded_config, write_results
from calibadv.lab.world import LabWorld

logger = logging.getLogger(__name__)


def run_lab(lab: LabConfig, *, resume: bool = False, watch: Watch | None = None) -> Path:
    """Train all arms and seeds; returns the folder with ``results.json``, the runs, the figures and the page.

    Args:
        lab: What to train. Without ``out`` the folder is ``runs/lab``; an older one there is moved aside.
        resume: Continue the lab in that folder with its own settings: finished runs are kept, one that was stopped
            continues from its checkpoint, the others start. The results are those of a lab that was never stopped.
        watch: Called about twice a second with all jobs.

    Raises:
        ConfigError: A setting is wrong, the folder is taken, or there is no lab to resume.
        CalibAdvError: A run failed; raised when the others are done, with the last lines of its log.
    """
    if resume:
        out = lab.out or DEFAULT
        lab = recorded_config(out, lab)
    world = LabWorld.make(lab.world_seed, size=lab.world_size)
    if not resume:
        jobs_of(lab, DEFAULT)  # wrong settings are found before anything is moved
        out = new_folder(lab.out)
        out.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(lab, out)
    with locked(out) as lock:
        write_world(world, out / "world")
        for job in jobs:
            job.config.write_text(job.toml, encoding="utf-8")
        write_results(lab, jobs, out)
        try:
            play(jobs, workers=lab.workers or os.cpu_count() or 1, watch=watch, lock=lock)
        except KeyboardInterrupt:
            logger.warning("Stopped. calibadv lab --resume%s continues it", "" if out == DEFAULT else f" --out {out}")
            raise
        finally:
            write_results(lab, jobs, out)
    if any(job.finished for job in jobs):
        draw(out)
    check_jobs(jobs)
    return out


def jobs_of(lab: LabConfig, out: Path) -> list[Job]:
    """The runs of a lab in its folder."""
    jobs = []
    for seed in range(lab.seeds):
        for arm in lab.parsed_arms:
            folder = out / f"{arm.folder}-seed{seed}"
            config = arm_config(lab, arm, seed=seed, world_dir=out / "world", folder=folder)
            job = Job(arm=arm, seed=seed, folder=folder, num_steps=config.training.steps, toml=config.to_toml())
            jobs.append(job)
    return jobs


def draw(folder: Path) -> None:
    """Every plot as PNG and SVG in ``figures/``, and one page with all of them."""
    from calibadv.report.figures import draw_lab
    from calibadv.report.page import write_page

    draw_lab(folder, folder / "figures")
    write_page(folder)
