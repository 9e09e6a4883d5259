"""Dense retrieval: encode the corpus once, search its vectors with FAISS.

- `build`: encode a corpus into an index folder; a build that was killed continues where it was
- `convert`: from one kind of index to another, and from published FAISS files to index folders, without encoding
  again
- `download`: files of a Hugging Face hub data set, fetched straight into place and resumable after a kill
- `encoder`: texts to vectors: one encoder on one device, batched by length, results in the order of the input
- `encoder_config`: how an encoder wants to be used: pooling, prefixes, normalisation, length
- `encoder_files`: where the files of an encoder or a re-ranker are
- `faiss_build`: make a FAISS index from a file of vectors without holding the vectors in memory
- `folder`: an index folder: putting it together from a file of vectors, and checking that its parts belong together
- `gpu_search`: exact search with torch: every vector on a GPU (or in memory), compared by matrix products
- `kinds`: kinds of FAISS index and their parameters, chosen by the size of the corpus
- `pull`: fetch a published corpus with its published FAISS index: wiki-18 as Search-R1 and its successors use it
- `retriever`: search by meaning: encode the queries, find the nearest documents with FAISS, fetch them from the
  corpus
- `search`: the nearest rows of query vectors: FAISS, then exact scores from the stored vectors where the kind wants
  them
- `sizing`: which kind of index fits into a given memory, and what recall to expect of it
- `vector_file`: the file of encoded documents: a FAISS file of plain vectors, so that it is an exact index as it
  stands
"""
