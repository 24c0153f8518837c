"""The catalogue in SQL, cell by cell as in a notebook: every view and macro of `vitrine sql`, in DuckDB.

    python examples/catalogue.py LAKE

A DuckDB relation prints itself, and becomes Arrow by `.to_arrow_table()` or Polars by `.pl()`.
"""

# %% The lake, as it is committed now. In a notebook: keep the `with` open by `contextlib.ExitStack().enter_context`.
from __future__ import annotations

import sys
from contextlib import ExitStack

import vitrine

stack = ExitStack()
sql = stack.enter_context(vitrine.connect(vitrine.open_lake(sys.argv[1])))

# %% How many pictures, of how many products, and what serves
print(sql.sql("SELECT count(*) AS pictures, count(DISTINCT product_id) AS products FROM images"))
print(sql.sql("FROM serving"))

# %% The products that please least
print(sql.sql("SELECT product_id, pictures, round(polarity, 3) AS polarity FROM product_polarity() LIMIT 5"))

# %% Do large pictures please more?
print(sql.sql("SELECT width, round(avg(polarity), 3) AS polarity FROM scores JOIN images USING (image_key) GROUP BY 1"))

# %% Where the runs' time went
print(sql.sql("SELECT flow, status, bottleneck, finished_at - started_at AS took FROM runs ORDER BY started_at"))

# %%
stack.close()
