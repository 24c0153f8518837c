"""From embeddings to a published index version."""
