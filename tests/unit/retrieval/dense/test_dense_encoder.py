"""Conventions of encoders, and the vectors they give."""

import json
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.io.provenance import model_fingerprint as fingerprint
from calibadv.retrieval.corpus.text import contents
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig, EncoderSpec, describe, family_of, published
from calibadv.trajectory import Document

DOCUMENTS = [
    Document(id="1", title="ada", text="wrote the first program"),
    Document(id="2", title="", text="river " * 40),
    Document(id="3", title="the king", text="born"),
    Document(id="4", title="city", text="the bridge the island the harbour"),
]


def reference(folder: Any, texts: Any, *, pooling: Any, normalize: Any, max_length: Any = 128) -> Any:
    """One text at a time, so without padding and without batching."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            output = model(**tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt"))
            hidden = output.last_hidden_state[0]
            row = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1], "pooler": output.pooler_output[0]}
            vector = row[pooling]
            rows.append((vector / vector.norm() if normalize else vector).numpy())
    return np.stack(rows)


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_plain_model_is_mean_pooled_and_normalised_without_prefixes(plain_encoder: Any) -> None:
    encoder = Encoder(EncoderConfig(model=str(plain_encoder), device="cpu"))
    assert (encoder.spec.family, encoder.spec.pooling, encoder.dimension) == ("plain", "mean", 32)
    want = reference(plain_encoder, [contents(d) for d in DOCUMENTS], pooling="mean", normalize=True)
    close(encoder.encode_documents(DOCUMENTS), want)
    close(encoder.encode_queries(["who wrote the song"]), reference(
        plain_encoder, ["who wrote the song"], pooling="mean", normalize=True
    ))  # fmt: skip


def test_an_e5_model_gets_its_prefixes(e5_encoder: Any) -> None:
    encoder = Encoder(EncoderConfig(model=str(e5_encoder), device="cpu"))
    assert (encoder.spec.family, encoder.spec.query_prefix, encoder.spec.passage_prefix) == (
        "e5",
        "query: ",
        "passage: ",
    )
    want = reference(e5_encoder, [f"passage: {contents(d)}" for d in DOCUMENTS], pooling="mean", normalize=True)
    close(encoder.encode_documents(DOCUMENTS), want)
    close(
        encoder.encode_queries(["the king"]), reference(e5_encoder, ["query: the king"], pooling="mean", normalize=True)
    )


def test_a_bge_model_pools_the_first_token_and_instructs_its_queries(plain_encoder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(plain_encoder, tmp_path / "bge-tiny-en")
    encoder = Encoder(EncoderConfig(model=str(folder), device="cpu"))
    assert (encoder.spec.family, encoder.spec.pooling, encoder.spec.passage_prefix) == ("bge", "cls", "")
    prefix = "Represent this sentence for searching relevant passages: "
    close(encoder.encode_queries(["the king"]), reference(folder, [prefix + "the king"], pooling="cls", normalize=True))


@pytest.mark.parametrize("pooling", ["cls", "last", "pooler"])
def test_every_part_of_a_convention_can_be_overridden(e5_encoder: Any, pooling: Any) -> None:
    config = EncoderConfig(
        model=str(e5_encoder),
        pooling=pooling,
        normalize=False,
        query_prefix="find ",
        passage_prefix="",
        max_length=9,
        batch_size=3,
    )
    encoder = Encoder(config)
    texts = [contents(d) for d in DOCUMENTS]
    close(
        encoder.encode_documents(DOCUMENTS),
        reference(e5_encoder, texts, pooling=pooling, normalize=False, max_length=9),
    )
    close(
        encoder.encode_queries(["the king"]),
        reference(e5_encoder, ["find the king"], pooling=pooling, normalize=False, max_length=9),
    )


def test_a_sentence_transformers_folder_is_run_by_its_own_modules(modules_encoder: Any) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder(EncoderConfig(model=str(modules_encoder), device="cpu", batch_size=3))
    assert (encoder.spec.family, encoder.spec.pooling, encoder.spec.max_length) == (
        "sentence-transformers",
        "modules",
        24,
    )
    theirs = SentenceTransformer(str(modules_encoder), device="cpu")
    close(encoder.encode_documents(DOCUMENTS), theirs.encode([contents(d) for d in DOCUMENTS], show_progress_bar=False))


def test_a_folder_with_its_transformer_inside_is_read_too(modules_encoder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(modules_encoder, tmp_path / "old-layout")
    (folder / "0_Transformer").mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    encoder, before = (Encoder(EncoderConfig(model=str(f))) for f in (folder, modules_encoder))
    assert (encoder.spec.max_length, encoder.dimension) == (24, 32)
    close(encoder.encode_documents(DOCUMENTS), before.encode_documents(DOCUMENTS))


def test_prompts_of_a_sentence_transformers_folder_are_its_prefixes(
    plain_encoder: Any, with_modules: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(plain_encoder, tmp_path / "prompted")
    with_modules(folder, prompts={"query": "find: ", "document": "text: "})
    spec = describe(EncoderConfig(model=str(folder)))
    assert (spec.query_prefix, spec.passage_prefix) == ("find: ", "text: ")
    assert describe(EncoderConfig(model=str(folder), query_prefix="")).query_prefix == ""


def test_results_come_in_the_order_of_the_input_whatever_the_batch_size(plain_encoder: Any) -> None:
    documents = [Document(id=str(i), title="", text="song " * (i * 7 % 23 + 1)) for i in range(23)]
    whole = Encoder(EncoderConfig(model=str(plain_encoder))).encode_documents(documents)
    close(Encoder(EncoderConfig(model=str(plain_encoder), batch_size=4)).encode_documents(documents), whole)
    close(Encoder(EncoderConfig(model=str(plain_encoder), batch_size=1)).encode_documents(documents), whole)


def test_no_texts_give_no_vectors(plain_encoder: Any) -> None:
    assert Encoder(EncoderConfig(model=str(plain_encoder))).encode_queries([]).shape == (0, 32)


def test_bfloat16_on_a_cpu_is_close_to_float32_and_recorded(plain_encoder: Any) -> None:
    exact = Encoder(EncoderConfig(model=str(plain_encoder), dtype="float32"))
    rounded = Encoder(EncoderConfig(model=str(plain_encoder), dtype="bfloat16", device="cpu"))
    assert (exact.spec.dtype, rounded.spec.dtype) == ("float32", "bfloat16")
    cosines = (exact.encode_documents(DOCUMENTS) * rounded.encode_documents(DOCUMENTS)).sum(axis=1)
    assert cosines.min() > 0.99


def test_several_threads_get_their_own_results(plain_encoder: Any) -> None:
    encoder = Encoder(EncoderConfig(model=str(plain_encoder), batch_size=2))
    queries = [[f"song {i} {j}" for j in range(5)] for i in range(6)]
    want = [encoder.encode_queries(batch) for batch in queries]
    got = [None] * len(queries)

    def work(number: Any) -> None:
        for _ in range(5):
            got[number] = encoder.encode_queries(queries[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(got, want, strict=True):
        close(ours, theirs)


def make_dpr(folder: Any, plain_encoder: Any, *, kind: Any, seed: Any) -> Any:
    """One half of DPR."""
    import torch
    from transformers import DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    shutil.copytree(plain_encoder, folder)
    settings = json.loads((folder / "config.json").read_text())
    keep = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = DPRConfig(**{name: settings[name] for name in keep}, max_position_embeddings=128)
    torch.manual_seed(seed)
    model = (DPRContextEncoder if kind == "ctx_encoder" else DPRQuestionEncoder)(config).eval()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return model


def test_dpr_has_an_encoder_for_questions_and_one_for_documents(plain_encoder: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    models = {
        kind: make_dpr(tmp_path / f"dpr-{kind}-tiny", plain_encoder, kind=kind, seed=seed)
        for seed, kind in enumerate(("ctx_encoder", "question_encoder"))
    }
    encoder = Encoder(EncoderConfig(model=str(tmp_path / "dpr-ctx_encoder-tiny")))
    assert (encoder.spec.family, encoder.spec.pooling, encoder.spec.normalize) == ("dpr", "pooler", False)
    assert encoder.spec.query_model.endswith("dpr-question_encoder-tiny")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dpr-ctx_encoder-tiny")
    with torch.inference_mode():
        pair = tokenizer("ada", "wrote the first program", return_tensors="pt")
        want = models["ctx_encoder"](input_ids=pair["input_ids"]).pooler_output
        question = models["question_encoder"](**tokenizer("who wrote", return_tensors="pt")).pooler_output
    close(encoder.encode_documents(DOCUMENTS[:1]), want.numpy())
    close(encoder.encode_queries(["who wrote"]), question.numpy())


def test_one_half_of_dpr_asks_for_the_other(plain_encoder: Any, tmp_path: Path) -> None:
    make_dpr(tmp_path / "mine", plain_encoder, kind="ctx_encoder", seed=0)
    with pytest.raises(ConfigError, match="name the other one"):
        describe(EncoderConfig(model=str(tmp_path / "mine")))


def test_families_are_known_by_name_and_by_the_name_a_config_remembers() -> None:
    assert family_of("models/e5-base-v2", {}, folder=None) == "e5"
    assert family_of("intfloat/multilingual-e5-large", {}, folder=None) == "e5"
    assert family_of("models/mine", {"_name_or_path": "BAAI/bge-m3"}, folder=None) == "bge"
    assert family_of("the5-model", {}, folder=None) == "plain"


def test_a_published_encoder_that_is_not_at_hand_is_described_by_its_name() -> None:
    spec = published(EncoderConfig(model="intfloat/e5-base-v2"), dimension=768)
    assert (spec.query_prefix, spec.pooling, spec.normalize, spec.fingerprint) == ("query: ", "mean", True, None)
    with pytest.raises(ConfigError, match="its name does not tell"):
        published(EncoderConfig(model="someone/encoder"), dimension=768)


def test_a_spec_survives_the_manifest(e5_encoder: Any) -> None:
    spec = describe(EncoderConfig(model=str(e5_encoder), max_length=64))
    assert EncoderSpec.from_parameters(json.loads(json.dumps(spec.as_parameters())), where="here") == spec
    assert describe(spec.config()) == spec
    with pytest.raises(DataError, match="does not describe its encoder"):
        EncoderSpec.from_parameters({"model": "x"}, where="here")


def test_the_fingerprint_follows_weights_and_settings_but_not_the_place(
    plain_encoder: Any, other_encoder: Any, tmp_path: Path
) -> None:
    copy = shutil.copytree(plain_encoder, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(plain_encoder) != fingerprint(other_encoder)
    (copy / "README.md").write_text("notes")
    assert fingerprint(copy) == fingerprint(plain_encoder)
    (copy / "tokenizer_config.json").write_text("{}")
    assert fingerprint(copy) != fingerprint(plain_encoder)


def test_loading_writes_nothing_to_the_terminal_and_warns_about_nothing(
    modules_encoder: Any, plain_encoder: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in (modules_encoder, plain_encoder):
            Encoder(EncoderConfig(model=str(folder))).encode_queries(["a song"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must not be empty, got"),
        ({"pooling": "max"}, 'pooling must be one of "mean", "cls"'),
        ({"dtype": "int8"}, 'dtype must be one of "auto", "float32"'),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"max_length": 0}, "max_length must be >= 1"),
        ({"dtype": "float16", "device": "cpu"}, "float16 needs a GPU"),
        ({"device": "tpu9"}, "the encoder's device must be"),
        ({"model": "./nowhere"}, "no such folder"),
    ],
)
def test_impossible_settings_are_refused(plain_encoder: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Encoder(EncoderConfig(**{"model": str(plain_encoder), **settings}))


@pytest.mark.parametrize("kind", ["plain_encoder", "modules_encoder"])
@pytest.mark.parametrize(
    ("left_out", "message"),
    [(("tokenizer*", "vocab*"), "no tokenizer there"), (("*.safetensors",), "cannot be loaded .*safetensors")],
)
def test_a_folder_without_a_tokenizer_or_without_weights_says_so(
    request: Any, tmp_path: Path, kind: str, left_out: Any, message: str
) -> None:
    folder = request.getfixturevalue(kind)
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(*left_out))
    with pytest.raises(ConfigError, match=message):
        Encoder(EncoderConfig(model=str(tmp_path / "copy")))


@pytest.mark.parametrize("modules", [True, False])
def test_weights_that_break_off_are_an_error_that_names_the_model(
    new_encoder: Any, with_modules: Any, tmp_path: Path, modules: Any
) -> None:
    folder = new_encoder(tmp_path / "model")
    weights = (with_modules(folder) if modules else folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"the encoder's model .*model: cannot be loaded"):
        Encoder(EncoderConfig(model=str(folder), device="cpu"))


def test_a_folder_that_is_no_model_and_a_hub_out_of_reach_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        describe(EncoderConfig(model=str(tmp_path)))
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        describe(EncoderConfig(model="nobody/nothing"))


def test_modules_that_normalise_cannot_be_told_not_to(modules_encoder: Any) -> None:
    with pytest.raises(ConfigError, match=r"set pooling"):
        describe(EncoderConfig(model=str(modules_encoder), normalize=False))
