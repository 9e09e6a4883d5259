"""Making the lab's tiny base policy.

- `demonstrations`: programmatic trajectories: what a good (or a careless) agent would write, in the rollout's own
  token layout
- `initialise`: initial weights from which reading is learned in minutes
- `phrases`: what the lab's policy can say besides facts: free thinking from small sentence patterns, and the words of
  questions
- `presets`: presets of the lab: the size of the policy, and how it is trained from scratch
- `pretrain`: train the lab's base policy from scratch: a small Llama that searches, reads and answers, on one core
- `probe`: does a policy really read? F1 on worlds of its training, on worlds it never saw, and with random documents
- `tokenizer`: the lab's tokenizer: one token for each word it knows, each tag, and each piece of an observation's
  scaffolding
"""
