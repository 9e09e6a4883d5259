"""What an estimate assumes. The figures are round ones for well-fed GPUs; `benchmarks/gpu.py` measures yours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from calibadv.config_class import Fraction, NonNegativeFloat, PositiveFloat, PositiveFraction, PositiveInt, config_class
from calibadv.doctor.memory import TYPICAL_DOCUMENT, TYPICAL_TURN
from calibadv.errors import ConfigError


@config_class()
class Assumptions:
    """Named figures of an estimate; ``--assume NAME=VALUE`` changes one."""

    update_mfu: PositiveFraction = 0.3
    """Share of the GPU's peak operations that forward and backward passes of an update reach."""
    forward_mfu: PositiveFraction = 0.35
    """The same for forward passes alone: prompts, observations, log-probabilities."""
    mbu: PositiveFraction = 0.6
    """Share of the memory's bandwidth that decoding and the optimizer reach."""
    vllm_step_ms: NonNegativeFloat = 8.0
    """Milliseconds that vLLM spends on a decoding step besides the model: scheduling, sampling, Python."""
    eager_layer_ms: NonNegativeFloat = 0.8
    """Milliseconds a layer and step that launching kernels one by one takes (engine "transformers")."""
    activations: PositiveFloat = 1.0
    """Factor on the memory of activations and logits."""
    usable: PositiveFraction = 0.92
    """Share of a GPU's memory that can be filled; the rest goes to the CUDA context, NCCL and fragmentation."""
    prompt_tokens: PositiveInt = 200
    """Tokens of a prompt."""
    turn_tokens: PositiveInt = TYPICAL_TURN
    """Tokens that a turn writes."""
    document_tokens: PositiveInt = TYPICAL_DOCUMENT
    """Tokens of a document; an observation has rollout.top_k of them."""
    searches: NonNegativeFloat = 2.5
    """Searches of a rollout, on average; at most rollout.max_searches."""
    searches_per_s: PositiveFloat = 200.0
    """Searches that the retriever answers in a second, re-ranking included."""
    search_s: NonNegativeFloat = 0.5
    """Seconds that one search takes, waiting included."""
    link_share: PositiveFraction = 0.7
    """Share of the bandwidth between GPUs that collectives reach."""
    network_gb_s: PositiveFloat = 50.0
    """Gigabytes a second that leave a machine, one way (one card of 400 Gbit/s)."""
    overlap: Fraction = 0.8
    """Share of the communication of sharded weights that hides behind arithmetic."""
    wake_s: NonNegativeFloat = 4.0
    """Seconds to wake a colocated engine and to put it to sleep, once a batch."""

    @classmethod
    def read(cls, changes: Sequence[str], *, base: dict[str, float] | None = None) -> Assumptions:
        """From ``name=value`` texts, on top of measured values.

        >>> Assumptions.read(["mbu=0.5"], base={"mbu": 0.7, "update_mfu": 0.2}).mbu
        0.5
        """
        values: dict[str, float] = dict(base or {})
        for change in changes:
            name, sign, text = change.partition("=")
            try:
                number = float(text)
            except ValueError:
                sign = ""
            if not sign:
                raise ConfigError(f"--assume {change}: write NAME=NUMBER, such as --assume update_mfu=0.3")
            name = name.strip()
            values[name] = int(number) if name.endswith("_tokens") and number.is_integer() else number
        try:
            return cls(**values)  # type: ignore[arg-type]  # checked by the class
        except ConfigError as error:
            raise ConfigError(f"--assume: {error}") from None

    def as_row(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)
