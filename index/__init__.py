"""Similarity search with faiss: train the codebook, write shards, search, measure. No storage, no Prefect."""
