"""Similarity search with faiss: train quantizers, write shards, search, measure. No storage, no Prefect."""
