"""Tables."""

from typing import Any

import pytest

from calibadv.evaluation import Grade, summarise
from calibadv.evaluation.tables import render, summary_table

NAMES = ("em", "cem", "f1", "format_valid", "searches", "turns")


def table(*datasets: str) -> Any:
    grades = [
        Grade(dataset=name, question_id=str(q), sample=0, values=dict.fromkeys(NAMES, float(q % 2)))
        for name in datasets
        for q in range(4)
    ]
    return summary_table(summarise(grades, seconds=dict.fromkeys(datasets, 2.0)))


def test_only_what_is_known_has_a_column() -> None:
    header, rows = table("nq")
    assert header == ["data set", "questions", "F1", "EM", "CEM", "format", "searches", "turns", "seconds"]
    assert rows[0][:2] == ["nq", "4"]
    assert rows[0][5:] == ["0.500", "0.50", "0.50", "2.0"]


def test_text_lines_up() -> None:
    lines = render(table("nq", "2wikimultihopqa")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[2:]] == ["nq", "2wikimultihopqa", "all", "macro"]


def test_markdown_has_one_cell_a_column() -> None:
    lines = render((["a", "b"], [["x|y", "1"]]), format="markdown").splitlines()
    assert lines == ["| a | b |", "|---|---:|", "| x\\|y | 1 |"]


def test_latex_escapes_names() -> None:
    text = render((["data set", "F1"], [["my_set & 50 %", "1.0"]]), format="latex", caption="a_b")
    assert r"my\_set \& 50 \% & 1.0 \\" in text
    assert r"\caption{a\_b}" in text
    assert text.count("{tabular}") == 2


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_every_figure_is_in_every_form(form: str) -> None:
    text = render(table("nq"), format=form)
    assert "0.500 [0.000, 1.000]" in text
