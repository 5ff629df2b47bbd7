"""The names of the files and folders of a ledger.

scores/LINE/RUN/NNNN.parquet   the truth; RUN is the number of the invocation
appearance/LINE/RUN/NNNN.parquet   its side table (`admodels.scoring.appearances`)
regions/LINE/RUN/NNNN.parquet  the places of its flagged images (`admodels.scoring.region_files`)
verdicts/LINE/NIGHT/NNNN.parquet   judgements on these rows; an older version kept LINE.parquet
parts/NAME/NIGHT/NNNN.parquet  judgements on parts (`admodels.nights.parts`)
nights/NIGHT.json              the record of a closed night (`admodels.nights.close`)
runs/RUN.json                  what a run did, with times and host; whole once its page stands
journal.jsonl                  the sha256 of every file (`admodels.scoring.journal`)
index.sqlite                   a cache (`admodels.scoring.index`)
"""

import re

OURS = re.compile(  # the names of files that the journal knows
    r"(scores|appearance|regions|pruned)/[^/]+/\d+/\d{4,}\.parquet"
    r"|(verdicts|parts|regions)/[^/]+/\d{4}-\d\d-\d\d/\d{4,}\.parquet|verdicts/[^/]+\.parquet"
    r"|runs/\d+\.json|nights/\d{4}-\d\d-\d\d\.json|drift/[^/]+/\d+\.json|lists/\d+/[^/]+\.csv"
    r"|calibration/[^/]+/(\w+-\w+|[0-9a-f]{64})\.(json|safetensors)"
    r"|calibration/[^/]+/in_force/\d{4,}\.json"
)
ASIDE = "damaged"  # below it stand files that were changed since they were written
FOLDERS = (
    *("scores", "appearance", "regions", "pruned", "verdicts", "parts", "lists"),
    *("runs", "nights", "drift", "calibration"),
)
OF_OLD = {"verdicts": "*.parquet", "lists": "*/*.csv"}  # that an older journal does not name
WRITING = "writing"  # files without a name yet; what a dead process left there goes
