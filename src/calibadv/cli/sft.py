"""``calibadv sft``: teach a model the tags, searching and reading from demonstrations, before reinforcement."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import new_command, require_packages
from calibadv.cli.train import PACKAGES, add_run_options, config_of, shortest, stopped

if TYPE_CHECKING:
    from calibadv.evaluation import EvalResult

EPILOG = """\
examples
  calibadv sft configs/smollm2-miniwiki.toml --data-only     make the demonstrations, look at them first
  calibadv sft configs/smollm2-miniwiki.toml --resume        ... then train on them
  calibadv sft configs/smollm2-miniwiki.toml                 both at once
  calibadv sft --resume runs/smollm2-miniwiki-sft            go on where a run stopped
  calibadv trajectories runs/smollm2-miniwiki-sft/demonstrations/programmatic.jsonl.gz -n 3

Demonstrations are made at run time: by script from questions whose rows say what to look up (decompositions,
supporting titles, or the question alone), with searches through the real retriever, and from recorded Search-R1
rollouts (sft.traces) that answered rightly. Questions of data.test are left out by id and by text. The trained model
is RUN/model; go on with: calibadv train CONFIG --set model.path=RUN/model
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "sft",
        help="teach a model the tags from demonstrations (a cold start for train)",
        description="Fine-tune a model on demonstrations, as the [sft] section of a config says.",
        epilog=EPILOG,
    )
    add_run_options(parser, output="sft.output")
    parser.add_argument("--data-only", action="store_true", help="make the demonstrations and stop")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Make demonstrations, train, look at the format."""
    config, resume = config_of(arguments, output="sft.output")
    print(config.to_toml(), flush=True)
    if arguments.dry_run:
        return
    require_packages(*PACKAGES, extra="train", what="supervised fine-tuning")
    from calibadv.data.run_files import MODEL
    from calibadv.io.hub import check_upload, upload_folder
    from calibadv.runs.sft import look_at_format, make_demonstrations, sft_folder, train_on_demonstrations

    if arguments.data_only:
        show_report(make_demonstrations(config))
        print(f"\nWritten to {shortest(sft_folder(config))}; train on them with --resume")
        return
    if arguments.push_to_hub:
        check_upload(arguments.push_to_hub, option="--push-to-hub")
    with stopped():
        folder = train_on_demonstrations(config, resume=resume, listeners=[show_line])
    folder = shortest(folder)
    show_format(look_at_format(config, folder))
    print(f"\nDone: {folder}")
    print(f"  calibadv train CONFIG --set model.path={folder / MODEL}    go on by reinforcement")
    if arguments.push_to_hub:
        print(f"Uploaded to {upload_folder(folder / MODEL, arguments.push_to_hub, option='--push-to-hub')}")


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
