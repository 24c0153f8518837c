"""The lake: one root URI that holds objects, Delta tables, versions and the DuckDB catalogue."""
