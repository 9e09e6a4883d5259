"""Every plot of the paper can be drawn from any run, several runs, or a lab."""

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from calibadv.report.figures import PLOTS, TEST_F1, Plot, draw_arms, draw_lab, draw_run, make_figure
from calibadv.report.read_runs import Arm, Run, arms_of, read_lab

MakeRun = Callable[..., Path]
BY_NAME = {plot.name: plot for plot in (TEST_F1, *PLOTS)}
PLOTS_OF_THE_PAPER = {
    "mispenalised",
    "groups_without_silver",
    "silver_counts",
    "correctness_values",
    "f1",
    "entropy",
    "correctness_mean",
}
PLOTS_BEYOND = {"perplexity", "advantage_mass", "garbled", "time_split"}


def texts(figure: Figure) -> str:
    found = [t.get_text() for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    found += [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return "\n".join(found)


def test_every_plot_that_is_asked_for_is_in_the_catalogue() -> None:
    assert set(BY_NAME) >= PLOTS_OF_THE_PAPER | PLOTS_BEYOND | {"test_f1"}


def test_a_run_gives_every_plot_as_png_and_svg(make_run: MakeRun, tmp_path: Path) -> None:
    paths = draw_run(make_run(), tmp_path / "figures")
    assert {p.name for p in paths} == {f"{plot.name}.{kind}" for plot in PLOTS for kind in ("png", "svg")}
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_same_run_gives_the_same_svg(make_run: MakeRun, tmp_path: Path) -> None:
    arms, plots = arms_of(make_run()), (BY_NAME["f1"], BY_NAME["time_split"])
    first, second = (draw_arms(arms, tmp_path / name, plots=plots) for name in "ab")
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_several_runs_share_the_axes_under_their_names(make_run: MakeRun) -> None:
    arms = arms_of([make_run("a"), make_run("b", seed=1)], names=["lambda 0.5", "lambda 1"])
    figure = make_figure(BY_NAME["entropy"], arms)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 2
    assert "lambda 0.5\nlambda 1" in texts(figure)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_plot_without_its_metric_says_so(plot: Plot) -> None:
    figure = make_figure(plot, [Arm(name="old", runs=(Run(name="old", rows=({"step": 1},)),))])
    assert "not recorded" in texts(figure)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_axis_has_a_label(plot: Plot, make_run: MakeRun) -> None:
    for ax in make_figure(plot, arms_of(make_run())).axes:
        shares_a_column = plot.name == "advantage_mass" and not ax.get_subplotspec().is_last_row()  # type: ignore[union-attr]
        assert ax.get_xlabel() or shares_a_column
        assert ax.get_ylabel() or plot.name == "time_split"


def test_the_masses_of_a_run_without_calibration_are_drawn_once() -> None:
    masses = {f"{sign}_mass_{when}": 5.0 for sign in ("positive", "negative") for when in ("before", "after")}
    figure = make_figure(
        BY_NAME["advantage_mass"], [Arm(name="grpo", runs=(Run(name="grpo", rows=({"step": 1, **masses},)),))]
    )
    assert len(figure.axes[0].lines) == 2
    assert "before calibration" not in texts(figure)


def test_one_arm_of_two_without_the_metric_leaves_the_other_drawn(make_run: MakeRun) -> None:
    arms = arms_of([make_run("a"), make_run("b", drop=("f1",))])
    assert len(make_figure(BY_NAME["f1"], arms).axes[0].lines) == 1


def test_seeds_become_a_band_around_their_mean(make_lab: Callable[..., Path]) -> None:
    ax = make_figure(BY_NAME["f1"], read_lab(make_lab({"grpo": 0.1}))).axes[0]
    assert len(ax.lines) == 1
    assert len(ax.collections) == 1


def test_curve_of_seeds_is_their_mean() -> None:
    runs = tuple(Run(name="a", rows=({"step": 1, "f1": v}, {"step": 2, "f1": v})) for v in (0.2, 0.4))
    line = make_figure(BY_NAME["f1"], [Arm(name="a", runs=runs)]).axes[0].lines[0]
    assert np.allclose(np.asarray(line.get_ydata()), 0.3)


def test_test_scores_have_a_dot_a_seed(make_lab: Callable[..., Path]) -> None:
    ax = make_figure(TEST_F1, read_lab(make_lab({"grpo": 0.1, "calibadv": 0.3}))).axes[0]
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert [len(np.asarray(c.get_offsets())) for c in dots] == [3, 3, 3, 3]


def test_collapsed_seeds_are_marked(make_lab: Callable[..., Path]) -> None:
    assert "3 of 3 collapsed" in texts(make_figure(TEST_F1, read_lab(make_lab({"grpo": -0.2, "calibadv": 0.3}))))


def test_a_lab_gives_the_test_scores_too(make_lab: Callable[..., Path], tmp_path: Path) -> None:
    paths = draw_lab(make_lab({"grpo": 0.1, "calibadv": 0.3}, num_seeds=1), tmp_path / "figures", plots=PLOTS[:1])
    assert [path.name for path in paths] == ["test_f1.png", "test_f1.svg", "f1.png", "f1.svg"]


def test_a_name_with_dollar_signs_is_no_formula(make_run: MakeRun, tmp_path: Path) -> None:
    assert draw_arms(arms_of(make_run("cost$x^{$")), tmp_path / "figures", plots=(BY_NAME["time_split"],))


def test_parts_of_the_time_are_whatever_seconds_the_run_counted() -> None:
    run = Run(name="a", rows=({"step": 1, "seconds_generate": 1.0, "seconds_storage": 0.5, "seconds_step": 1.5},))
    figure = make_figure(BY_NAME["time_split"], [Arm(name="a", runs=(run,))])
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert math.isclose(sum(bar.get_width() for bar in bars), 1.5)
    assert "storage" in texts(figure)


def test_wide_perplexities_get_a_logarithmic_axis_with_plain_numbers() -> None:
    rows = tuple({"step": s, "perplexity_search": 2.0**s, "perplexity_answer": 1.5} for s in range(1, 8))
    figure = make_figure(BY_NAME["perplexity"], [Arm(name="a", runs=(Run(name="a", rows=rows),))])
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear"]
    figure.canvas.draw()
    assert "$" not in "".join(label.get_text() for label in figure.axes[0].get_yticklabels())
