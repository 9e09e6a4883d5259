"""Reading and storing documents.

- `corpus`: the corpus: documents in a folder, memory-mapped, whatever their number; or a few of them in memory
- `id_index`: from id to row without the ids in memory: their hashes, sorted, beside the rows they stand in
- `importing`: making a corpus folder out of files: a stream, in bounded memory, with an account of what was left out
- `manifest`: what a corpus folder says about itself: ``corpus.json``, written last, so that a folder that has one is
  complete
- `read`: opening a corpus, whatever form it has: a folder that an import made, or a file that fits into memory
- `row_errors`: what keeps a row of a source from becoming a document. It is a value: the reader decides whether it is
  an error
- `table`: documents in an Arrow IPC file: three columns of text, in record batches of a fixed number of rows
- `text`: text as encoders and wire formats want it: documents in the wiki-18 form, whole characters
"""
