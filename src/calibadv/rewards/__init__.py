"""What an answer is worth.

- `answer_scores`: answer scores: exact match, cover exact match and F1 after the usual SQuAD normalisation
- `format`: the format check: think, search, information, (think, search, information)*, think, answer
- `outcome`: the outcome reward: score of the model's own answer times the format flag
- `reward`: the door for rewards: the built-in one, or yours
- `perplexity`: garbled text: a trajectory is garbled when one of its turns has a perplexity at or above the threshold
"""
