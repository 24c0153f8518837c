"""One runnable file a question; each prints a table. Nothing here is timed inside tests."""
