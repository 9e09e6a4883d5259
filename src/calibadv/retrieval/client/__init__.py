"""The retriever that asks servers over HTTP; pairs with `calibadv.retrieval.server`.

- `retriever`: the retriever of a run whose index lives on a server: HTTP with fail-over and no silent failure
- `servers`: one retrieval server as its client sees it: what it serves, how busy it is, and a circuit-breaker
- `wire`: what a retrieval client sends and reads, in the two dialects that published servers speak
"""
