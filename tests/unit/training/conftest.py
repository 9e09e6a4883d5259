"""A tiny character-level model and a scripted policy: everything the trainer needs, in milliseconds."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import Completion, GenerationRequest, HFTokenizer, RequestQueue, ScriptedPolicy
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.trainer import CalibAdvTrainer
from calibadv.trajectory import Document, Question

GOOD, MISLED, LOST, INVALID = range(4)


class Answering(ScriptedPolicy):
    """Right answers for whatever questions are asked: the script reads them off the prompt."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self.tokenizer = tokenizer
        self.prompts: dict[int, str] = {}
        super().__init__(self.answer, tokenizer=tokenizer)

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        policy = self

        class Read:
            """The queue, with what is asked written down."""

            def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
                taken = requests.take(room, idle=idle)
                policy.prompts |= {r.episode: policy.tokenizer.decode(r.token_ids) for r in taken}
                return taken

            def ended(self) -> list[int]:
                return requests.ended()

        return super().generate(Read())

    def answer(self, episode: int, turn: int) -> str:
        book = self.prompts[episode].split("book ")[1].split("?")[0]
        kind = episode % 4
        if kind == INVALID:
            return "who knows"
        if turn == 0:
            thinking = ["first i look", "let me find out", "no clue at all"][kind]
            return f"{thinking}</think><search>book {5 if kind == LOST else book}</search>"
        return f"so</think><answer>{f'author {book}' if kind == GOOD else 'nobody knows it'}</answer>"


@pytest.fixture(scope="session")
def char_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {char: number for number, char in enumerate(["\x00", "\x03", *string.printable])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    fast: Any = PreTrainedTokenizerFast  # untyped there
    made: PreTrainedTokenizerFast = fast(tokenizer_object=backend, pad_token="\x00", eos_token="\x03", unk_token="?")
    return made


@pytest.fixture
def make_model(char_tokenizer: PreTrainedTokenizerFast) -> Callable[[], LlamaForCausalLM]:
    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(char_tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
        return LlamaForCausalLM(config)

    return make


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    return [
        Question(id=f"q{n}", text=f"who wrote book {n}?", golden_answers=(f"author {n}",), dataset="toy")
        for n in range(6)
    ]


@pytest.fixture(scope="session")
def documents(questions: list[Question]) -> dict[str, list[Document]]:
    return {
        f"book {n}": [
            Document(id=f"d{n}", title=f"Book {n}", text=f"by author {n}"),
            Document(id=f"x{n}", title=f"Other {n}", text="nothing here"),
        ]
        for n in range(len(questions))
    }


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """CalibAdvConfig fields of a run with 2 questions x 4 rollouts a batch, in 2 mini-batches of 2 passes or so."""
    return {
        "output_dir": str(tmp_path / "run"),
        "num_generations": 4,
        "questions_per_batch": 2,
        "mini_batches": 2,
        "micro_batch_tokens": 500,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
        "rollout": {"prompt": "question", "top_k": 2, "max_turn_tokens": 80},
    }


@pytest.fixture
def make_trainer(
    make_model: Callable[[], LlamaForCausalLM],
    char_tokenizer: PreTrainedTokenizerFast,
    questions: list[Question],
    documents: dict[str, list[Document]],
    settings: dict[str, Any],
) -> Callable[..., CalibAdvTrainer]:
    def scripted(_model: Any, tokenizer: PreTrainedTokenizerFast) -> Answering:
        return Answering(HFTokenizer(tokenizer))

    def make(
        cls: type[CalibAdvTrainer] = CalibAdvTrainer,
        *,
        policy: Any = scripted,
        model: Any = None,
        reference: Any = None,
        **changes: Any,
    ) -> CalibAdvTrainer:
        return cls(
            make_model() if model is None else model,
            args=CalibAdvConfig(**(settings | changes)),
            train_questions=questions[:5],
            retriever=ListRetriever(documents),
            processing_class=char_tokenizer,
            policy=policy,
            reference=reference,
        )

    return make
