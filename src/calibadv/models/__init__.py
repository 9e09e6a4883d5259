"""The model as a thing on disk and in memory: loaded, adapted, opened as a policy, measured, published.

- `config`: the [model] section: which model, which engine writes with it, and where that engine is. Light: imports no
  torch
- `engine`: the door for inference engines from outside
- `load`: loading a causal language model with its tokenizer: a folder, a hub id, a GGUF file, or a Python package's
  model
- `lora`: loRA: train two small matrices beside every linear layer and leave the model itself alone (Hu et al. 2021)
- `open_policy`: `open_policy`: from the [model] section to something that writes turns, with the tokenizer that
  belongs to it
- `published`: architectures of the recipes' models as published, for plans and benchmarks without the hub and without
  weights
- `quantization`: weights in 4 bits, with an adapter on them that is trained (QLoRA, Dettmers et al. 2023), by the
  package bitsandbytes
- `reference`: the model that a KL term compares the policy with
- `sizes`: the shape of a model without its weights, and how much memory a device has: what estimates are made from
- `whole`: whole tensors from sharded ones (FSDP2's DTensors) and back, for files that do not depend on the processes
"""
