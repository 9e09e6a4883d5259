"""Dense retrieval: encode the corpus once, search its vectors with FAISS.

Map: ``conventions`` says how an encoder wants its texts (prefixes, pooling, normalisation) and ``encoder`` runs it;
``vectors`` is the file of encoded documents, ``build`` writes it so that a killed build continues; ``kinds`` chooses
the parameters of a FAISS index, ``assemble`` makes one from a file of vectors without loading it, ``memory`` picks the
kind that fits, ``folder`` puts the parts together; ``nearest`` searches vectors (``exact`` does with torch),
``retriever`` searches texts; ``convert`` and ``pull`` (over ``download``) bring published indexes here. Nothing heavy
is imported before it is used.
"""
