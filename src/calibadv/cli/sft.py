"""``calibadv sft``: teach a model the tags, searching and reading from demonstrations, before reinforcement."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import Overrides, Verbose, command, show_settings
from calibadv.cli.train import PACKAGES, Config, DryRun, PushToHub, Resume, folder_of, shortest, stopped
from calibadv.data.run_files import MODEL
from calibadv.io.packages import require_packages

EXAMPLES = """\
  calibadv sft configs/smollm2-miniwiki.toml --data-only    look at the demonstrations first
  calibadv sft configs/smollm2-miniwiki.toml --resume       ... then train on them
  calibadv sft configs/smollm2-miniwiki.toml                both at once
  calibadv sft --resume runs/smollm2-miniwiki-sft           continue a run that stopped

Demonstrations are made at run time: by script from questions whose rows say
what to look up (decompositions, supporting titles, or the question alone), with
searches through the real retriever, and from recorded Search-R1 rollouts
(sft.traces) that answered rightly. Questions of data.test are left out by id
and by text. The trained model is RUN/model; continue with
calibadv train CONFIG --set model.path=RUN/model
"""
DataOnly = Annotated[bool, Parameter(help="Make the demonstrations and stop.", show_default=False)]

app = command("sft", examples=EXAMPLES)


@app.default
def sft(
    config: Config = None,
    /,
    *,
    overrides: Overrides = (),
    resume: Resume = None,
    data_only: DataOnly = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    push_to_hub: PushToHub = None,
) -> None:
    """Fine-tune a model on demonstrations, as the [sft] section of a config says."""
    from calibadv.runs.targets import config_to_run

    run = config_to_run(config, resume=folder_of(resume), overrides=overrides, output="sft.output")
    show_settings(run, verbose=verbose)
    if dry_run:
        return
    require_packages(*PACKAGES, extra="train", what="supervised fine-tuning")
    from calibadv.io.hub import check_upload, upload_folder
    from calibadv.runs.demonstrations import report_text
    from calibadv.runs.sft import (
        format_text,
        look_at_format,
        make_demonstrations,
        sft_folder,
        train_on_demonstrations,
    )
    from calibadv.runs.step_lines import sft_figures

    if data_only:
        print(report_text(make_demonstrations(run)))
        print(f"\nWritten to {shortest(sft_folder(run))}; train on them with --resume")
        return
    if push_to_hub:
        check_upload(push_to_hub, option="--push-to-hub")

    def show(line: dict[str, Any]) -> None:
        print(sft_figures(line), flush=True)

    with stopped():
        folder = train_on_demonstrations(run, resume=resume is not None, listeners=[show])
    folder = shortest(folder)
    if (result := look_at_format(run, folder)) is not None:
        print(f"\n{format_text(result)}")
    print(f"\nDone: {folder}")
    print(f"  calibadv train CONFIG --set model.path={folder / MODEL}    continue by reinforcement")
    if push_to_hub:
        print(f"Uploaded to {upload_folder(folder / MODEL, push_to_hub, option='--push-to-hub')}")
