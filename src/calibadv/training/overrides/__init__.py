"""Each file overrides one method of TRL's trainer and is tested against it.

- `checkpoint_saving`: writing checkpoints and models so that a full disk or a kill costs nothing that was there
  before
- `ddp`: gradients as views of the buckets that DDP sends
- `fsdp`: checkpoints and precision of sharded weights (overrides of the Trainer, for FSDP2)
- `lr_schedule`: a learning rate that decays over more steps than the run has, and once a batch (one override of the
  Trainer)
- `colocated_vllm`: vLLM in the training process, on the device that trains (TRL's ``VLLMGeneration``); no other file
  knows its inside
- `micro_batches`: mini-batches that count rollouts, and micro-batches that count tokens (overrides of TRL's trainer)
- `question_sampler`: questions in an order that is made as it is needed (one override of TRL's trainer)
- `reference_logprobs`: the reference policy of the KL term (one override of TRL's trainer)
- `token_logprobs`: log-probabilities of the trained tokens only (one override of TRL's trainer)
- `trl_fields`: what every field of TRL's ``GRPOConfig`` does here: it acts, it acts under a condition, or it is
  refused
- `turn_advantages`: calibrated advantages in place of TRL's (one override of TRL's trainer)
"""
