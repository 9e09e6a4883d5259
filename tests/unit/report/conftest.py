"""Runs made up by the test: they look like training, and nothing is read from anywhere else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeRun = Callable[..., Path]


def made_up_metrics(num_steps: int, *, seed: int, gain: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, num_steps + 1):
        progress = step / num_steps
        f1 = float(np.clip(0.3 + gain * progress + rng.normal(0, 0.04), 0, 1))
        positive, negative = 900 + 200 * rng.random(), 1200 + 300 * rng.random()
        rows.append(
            {
                "step": step,
                "reward": f1 * 0.95,
                "f1": f1,
                "em": f1 * 0.8,
                "cem": f1 * 0.85,
                "format_valid": 0.9 + 0.08 * progress,
                "garbled": 0.05 * (1 - progress),
                "entropy": float(0.9 - 0.5 * progress + rng.normal(0, 0.02)),
                "perplexity_search": float(np.exp(3 * progress + rng.normal(0.4, 0.05))),
                "perplexity_answer": float(np.exp(rng.normal(0.8, 0.1))),
                "searches": 1.5 + 0.2 * rng.random(),
                "turns": 2.6,
                "tokens": 40 + 5 * rng.random(),
                "loss": 0.01,
                "grad_norm": 0.4 + 0.1 * rng.random(),
                "lr": 5e-4,
                "clip_fraction": 0.02 * rng.random(),
                "mispenalised_turns": int(rng.integers(5, 25)),
                "mispenalised_share": 0.1 + 0.1 * rng.random(),
                "groups_without_silver": 0.6 - 0.4 * progress,
                "silver_counts": rng.integers(0, 8, size=12).tolist(),
                "correctness_mean": 0.2 + 0.2 * progress,
                "correctness_values": rng.choice([0, 1 / 3, 0.5, 2 / 3, 1.0], size=40).tolist(),
                "positive_mass_before": positive,
                "negative_mass_before": negative,
                "positive_mass_after": negative,
                "negative_mass_after": negative,
                "search_positive_mass_before": positive * 1.4,
                "search_negative_mass_before": negative * 1.4,
                "search_positive_mass_after": positive * 1.4,
                "search_negative_mass_after": negative,
                "skipped_updates": 0,
                "failed_rollouts": 0,
                "seconds_generate": 0.9,
                "seconds_search": 0.05,
                "seconds_logprob": 0.1,
                "seconds_update": 1.1,
                "seconds_other": 0.1,
                "seconds_step": 2.25,
            }
        )
    return rows


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str = "run", *, num_steps: int = 12, seed: int = 0, gain: float = 0.4, drop: tuple[str, ...] = ()
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = made_up_metrics(num_steps, seed=seed, gain=gain)
        lines = [json.dumps({k: v for k, v in row.items() if k not in drop}) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tests = [{"step": step, "f1": 0.3 + gain * step / num_steps, "f1_se": 0.03} for step in (0, num_steps)]
        (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def make_lab(tmp_path: Path, make_run: MakeRun) -> Callable[..., Path]:
    def make(arms: dict[str, float], *, num_seeds: int = 3, **settings: Any) -> Path:
        entries = []
        for name, gain in arms.items():
            for seed in range(num_seeds):
                run = make_run(f"lab/{name}-{seed}", seed=seed, gain=gain, **settings)
                entries.append(
                    {
                        "name": name,
                        "seed": seed,
                        "f1_before": 0.31 + 0.01 * seed,
                        "f1_after": 0.31 + gain + 0.03 * seed,
                        "f1_before_se": 0.03,
                        "f1_after_se": 0.03,
                        "f1_curve": [0.3, 0.5],
                        "entropy_curve": [0.9, 0.5],
                        "collapsed": gain < 0,
                        "seconds": 100.0,
                        "run_dir": run.relative_to(tmp_path / "lab").as_posix(),
                    }
                )
        results = tmp_path / "lab" / "results.json"
        results.write_text(json.dumps({"arms": entries, "verdict": "calibadv ends above grpo <b>"}), encoding="utf-8")
        return results

    return make
