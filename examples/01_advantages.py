"""One question, five rollouts: what each turn is credited with, before and after calibration.

python examples/01_advantages.py
"""

from calibadv.advantage import (
    CalibrationConfig,
    TrajectoryEvidence,
    TurnEvidence,
    calibrate,
    query_correctness,
    spread,
)

# Who directed the film that won the prize? Turns: what the model thought, and the ids of the documents it retrieved.
ANSWER = TurnEvidence("now I can answer", ())
FILM = TurnEvidence("first find out which film won the prize", ("prize", "film", "festival"))
DIRECTOR = TurnEvidence("the director of that film is still missing", ("film", "director", "studio"))
ASTRAY = TurnEvidence("maybe a list of directors helps", ("list", "guild", "school"))
AGAIN = TurnEvidence("first find out which film won the big prize", ("prize", "festival", "jury"))

ROLLOUTS = {  # name: (turns, score of the answer, tokens that the model wrote in each turn)
    "found it": ((FILM, DIRECTOR, ANSWER), 1.0, (40, 35, 12)),
    "found half of it": ((FILM, ANSWER), 0.0, (38, 20)),
    "searched well, answered wrong": ((FILM, DIRECTOR, ANSWER), 0.0, (41, 37, 16)),
    "went round in circles": ((FILM, AGAIN, ANSWER), 0.0, (40, 42, 30)),
    "went astray": ((ASTRAY, ANSWER), 0.0, (36, 25)),
}


def main() -> None:
    evidence = [
        TrajectoryEvidence(turns=turns, score=score, format_valid=True) for turns, score, _ in ROLLOUTS.values()
    ]
    num_turns = max(len(turns) for turns, _, _ in ROLLOUTS.values())
    num_tokens = [[*tokens, *[0] * (num_turns - len(tokens))] for _, _, tokens in ROLLOUTS.values()]
    group_ids = ["prize"] * len(ROLLOUTS)  # Any batch of questions works: groups go by id, in any order.

    correctness, silver = query_correctness(evidence, group_ids=group_ids)
    advantages, stats = calibrate(
        [score for _, score, _ in ROLLOUTS.values()],
        group_ids=group_ids,
        correctness_NK=correctness,
        num_tokens_NK=num_tokens,
        config=CalibrationConfig(rebalance_coef=1.0),
    )

    print(f"{silver.silver_counts[0]} silver documents\n")
    print(f"{'rollout':<30} {'turn':<9}{'tokens':>6} {'correctness':>12} {'GRPO':>7} {'CalibAdv':>9}")
    for n, (name, (turns, _, tokens)) in enumerate(ROLLOUTS.items()):
        for k in range(len(turns)):
            is_answer = k == len(turns) - 1
            kind = "answer" if is_answer else f"search {k + 1}"
            correct = "" if is_answer else f"{correctness[n, k]:.2f}"
            before, after = stats.uncalibrated_NK[n, k], advantages[n, k]
            print(f"{name if k == 0 else '':<30} {kind:<9}{tokens[k]:>6} {correct:>12} {before:>7.2f} {after:>9.2f}")

    print(f"\n{stats.mispenalised_turns} of {stats.search_turns} search turns were about to be punished for good work")
    for label, mass in (("before:", stats.answer_before), ("after:", stats.answer_after)):
        print(f"answer turns {label:<7} {mass.positive:5.1f} positive to {mass.negative:5.1f} negative advantage mass")

    # Tokens last: here every trajectory starts at column 0, with 100 tokens of documents after each search.
    starts = [[sum(row[:k]) + 100 * k for k in range(num_turns)] for row in num_tokens]
    per_token = spread(advantages, starts_NK=starts, num_tokens_NK=num_tokens, num_columns=400)
    print(f"token advantages: shape {per_token.shape}, {(per_token != 0).sum()} of them not 0")


if __name__ == "__main__":
    main()
