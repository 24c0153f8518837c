"""One retryable unit of work each: take a reference, read, compute, write, return a small frozen dataclass."""
