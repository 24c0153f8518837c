"""Whole nights that are killed, raced and badly served, and a dictionary that says what each had to leave.

`python -m tests.chaos --help`; `tests/test_chaos.py` runs a short version. `campaign.py` draws what happens,
`nights.py` is what runs in the child processes, `proxy.py` stands between them and the S3 server, `oracle.py` compares.
"""

from __future__ import annotations
