"""Files and the network: nothing in here knows a word of the domain.

- `http`: one HTTP request and its whole answer, within a deadline; which failures pass; how long to wait before the
  next try
- `mapped_file`: A memory-mapped file whose resident part stays small
- `serving`: what every server of this package needs: a socket bound before anything is loaded, and an end without
  drama
- `thread_pool`: A pool of threads that survives a fork
"""
