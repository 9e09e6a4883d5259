"""Files and the network: nothing in here knows a word of the domain.

- `clock`: what time it is, and waiting, as an object: tests pass one that only counts
- `files`: files that are complete or not there, and JSON lines: one way to write and to read them
- `http`: one HTTP request and its whole answer, within a deadline; which failures are transient
- `hub`: the Hugging Face hub: what a repository holds, its files in the hub's cache, and uploads
- `mapped_file`: A memory-mapped file whose resident part stays small
- `packages`: optional packages: whether they are there, said before work begins
- `provenance`: what a figure depends on: digests of files, texts and models, and the versions of packages
- `retry`: retry with exponential backoff and jitter, within one deadline for all attempts
- `serving`: what every server of this package needs: a bound socket, request bodies within limits, tokens, graceful
  shutdown
- `signals`: handlers of signals for the length of a block
- `terminal`: text for a terminal: labelled blocks, tables, and nothing that could steer it
- `thread_pool`: A pool of threads that survives a fork
"""
