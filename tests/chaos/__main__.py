"""Disturb nights for so long, compare what each left, print what happened as a table; status 1 if anything is wrong.

    python -m tests.chaos --seconds 1200 --seed 7

Every third lake is on the S3 server that AWS_ENDPOINT_URL names, where VITRINE_TEST_S3 is set; the others are local.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bucket import fresh_bucket
from tests.chaos.campaign import Campaign, Log
from tests.chaos.proxy import Proxy
from tests.chaos.shop import address
from tests.chaos.tally import Tally


def main() -> int:
    """Run as many campaigns side by side as are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__, formatter_class=_Raw)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--lakes", type=int, default=8, help="side by side")
    parser.add_argument("--directory", type=Path, help="for lakes and logs, which stay; by default a temporary one")
    asked = parser.parse_args()
    with ExitStack() as around:
        directory = asked.directory or Path(around.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        tally = disturb(directory, asked.seconds, asked.seed, asked.lakes)
    print(f"seed {asked.seed}, {asked.seconds:.0f} s, {asked.lakes} lakes\n\n{tally.table()}")  # noqa: T201
    for difference in tally.differences:
        print(difference, file=sys.stderr)  # noqa: T201
    return 1 if tally.differences else 0


def disturb(directory: Path, seconds: float, seed: int, lakes: int) -> Tally:
    """Campaigns on so many lakes at once; what their logs say."""
    directory.mkdir(parents=True, exist_ok=True)
    log, requests, until = Log(directory / "runs.jsonl"), directory / "requests.jsonl", time.monotonic() + seconds
    with ExitStack() as around:
        bucket = proxy = None
        if os.environ.get("VITRINE_TEST_S3"):
            bucket = around.enter_context(fresh_bucket())
            proxy = around.enter_context(Proxy(address(os.environ["AWS_ENDPOINT_URL"]), requests))

        def campaign(number: int) -> None:
            own, name = directory / str(number), f"{seed}-{number}"
            on_s3 = bucket is not None and number % 3 == 1
            root, through = (f"{bucket}/{number}", proxy) if on_s3 else (str(own / "root"), None)
            Campaign(own, root, log, name, proxy=through).go_on(lambda: time.monotonic() > until)

        with ThreadPoolExecutor(lakes) as pool:
            list(pool.map(campaign, range(lakes)))
    return Tally.read(log.path, requests)


class _Raw(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


if __name__ == "__main__":
    sys.exit(main())
