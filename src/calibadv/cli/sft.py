"""``calibadv sft``: teach a model the tags, searching and reading from demonstrations, before reinforcement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from calibadv.cli.console.options import Overrides, Verbose, command
from calibadv.cli.console.settings import show_settings
from calibadv.cli.train import PACKAGES, Config, DryRun, PushToHub, Resume, config_of, shortest, stopped
from calibadv.data.run_files import MODEL
from calibadv.io.packages import require_packages

if TYPE_CHECKING:
    from calibadv.evaluation import EvalResult

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
    run = config_of(config, resume=resume, overrides=overrides, output="sft.output")
    show_settings(run, verbose=verbose)
    if dry_run:
        return
    require_packages(*PACKAGES, extra="train", what="supervised fine-tuning")
    from calibadv.io.hub import check_upload, upload_folder
    from calibadv.runs.sft import look_at_format, make_demonstrations, sft_folder, train_on_demonstrations

    if data_only:
        show_report(make_demonstrations(run))
        print(f"\nWritten to {shortest(sft_folder(run))}; train on them with --resume")
        return
    if push_to_hub:
        check_upload(push_to_hub, option="--push-to-hub")
    with stopped():
        folder = train_on_demonstrations(run, resume=resume is not None, listeners=[show_line])
    folder = shortest(folder)
    show_format(look_at_format(run, folder))
    print(f"\nDone: {folder}")
    print(f"  calibadv train CONFIG --set model.path={folder / MODEL}    continue by reinforcement")
    if push_to_hub:
        print(f"Uploaded to {upload_folder(folder / MODEL, push_to_hub, option='--push-to-hub')}")


def show_report(report: dict[str, Any]) -> None:
    """What there is and what was left out."""
    for source in ("programmatic", "traces", "stored"):
        counts = report[source]
        if counts:
            print(f"{source:<13} {sum(counts.values()):>6}   {', '.join(f'{n} {name}' for name, n in counts.items())}")
        for reason, number in report["left_out"].get(source, {}).items():
            print(f"  left out    {number:>6}   {reason}")
    searches = ", ".join(f"{number} with {count}" for count, number in report["searches"].items())
    print(f"{report['demonstrations']} demonstrations; searches: {searches}")
    if report["test_questions_left_out"]:
        print(f"{report['test_questions_left_out']} test questions were left out")


def show_line(line: dict[str, Any]) -> None:
    """One line of sft.jsonl for the terminal; a missing figure was not finite."""
    shown = [f"{name} {line[name]:.3g}" for name in ("loss", "grad_norm", "lr") if line[name] is not None]
    print(f"step {line['step']:>4}  epoch {line['epoch']:.2f}  {'  '.join(shown)}", flush=True)


def show_format(result: EvalResult | None) -> None:
    """What a few greedy rollouts of the trained model look like."""
    if result is None:
        return
    means = result.overall.estimates
    print(
        f"\nFormat check, {len(result.grades)} questions, greedy: {means['format_valid'].mean:.0%} valid format, "
        f"{means['answered'].mean:.0%} answered, {means['searches'].mean:.1f} searches, F1 {means['f1'].mean:.3f}"
    )
