"""What BM25 and dense indexes share on disk.

- `folder`: what every index folder has besides its manifest: a corpus somewhere, files that must be whole, and a way
  to appear
- `manifest`: what an index folder says about itself: ``manifest.json``, checked whenever the index is opened
- `row_search`: what an index finds: rows of its corpus with scores. Documents are fetched when the best rows are
  known
- `verify`: is an index what its manifest says, and of this corpus? Reads every byte that can be compared with
  something
"""
