"""An inference engine of one's own: a function that gives something with ``generate(requests)``.

    calibadv eval run.toml --set model.engine=own_policy:engine      (from this folder)
    python examples/own_policy.py

The loop below is all that a policy must do: take requests, and yield a completion for each, in any order. This one
writes what a rule says instead of what a model says. A policy that is trained must also report the log-probability of
every token it sampled, under the weights as they are now.
"""

from collections.abc import Iterator

from calibadv.models.config import ModelConfig
from calibadv.retrieval import ListRetriever
from calibadv.rollout import (
    CharTokenizer,
    Completion,
    GenerationRequest,
    RequestQueue,
    RolloutConfig,
    Tokenizer,
    rollout,
)
from calibadv.trajectory import Document, Question


class CopyThePage:
    """Searches for the last word of the prompt, then answers with the last word of what it found."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        while batch := requests.take(64, idle=True):  # an empty list: every episode is over
            requests.ended()  # a real engine frees the caches of these episodes
            for request in batch:
                yield self.write(request)

    def write(self, request: GenerationRequest) -> Completion:
        context = self.tokenizer.decode(list(request.token_ids))
        found = context.rpartition("<information>")[2].partition("</information>")[0]
        if "<information>" in context:
            text = f"There it is.</think><answer>{found.split()[-1].strip('.')}</answer>"
        else:
            text = f"I look it up.</think><search>{context.replace('<think>', '').split()[-1].strip('?')}</search>"
        ids = tuple(self.tokenizer.encode(text))
        return Completion(episode=request.episode, token_ids=ids, logprobs=(0.0,) * len(ids), text=text, finish="stop")


def engine(config: ModelConfig, *, tokenizer: Tokenizer, model: object) -> CopyThePage:
    """What ``model.engine`` names; ``model`` holds the weights in training and is None in evaluation."""
    return CopyThePage(tokenizer)


if __name__ == "__main__":
    tokenizer = CharTokenizer()
    result = rollout(
        [Question(id="1", text="Where was Ada born, says the page on Ada?", golden_answers=("London",))],
        num_rollouts=1,
        policy=CopyThePage(tokenizer),
        retriever=ListRetriever({"Ada": [Document(id="d1", title="Ada", text="Ada was born in London.")]}),
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question", top_k=1),
        seed=0,
    )
    print(result.trajectories[0].queries, result.trajectories[0].answer)
