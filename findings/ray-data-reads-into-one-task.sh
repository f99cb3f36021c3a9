#!/usr/bin/env bash
# Ray Data works through a folder of small Parquet files of images in one task, however many CPUs and files there are,
# and override_num_blocks does not change that.
#
# ray.data.read_parquet(folder).map_batches(classify) is what a batch inference is said to look like. With 16 files and 4
# CPUs one expects 4 tasks side by side, and at least that override_num_blocks=16, "override the number of output
# blocks", makes as many. Compressed images are small and classifying one takes long, but what Ray goes by are bytes: all
# the files become one block, one process classifies all rows, and three CPUs idle, without a word. repartition() behind
# reading makes blocks.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

RAY=2.60.0
PYARROW=26.0.1
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "ray[data]==$RAY" "pyarrow==$PYARROW"

cat >tasks.py <<'END'
import logging
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import ray

FILES, ROWS, CPUS = 16, 32, 4

os.mkdir("images")
for number in range(FILES):
    pq.write_table(pa.table({"image": [os.urandom(3000) for _ in range(ROWS)]}), f"images/{number:02}.parquet")

ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)


def classify(batch):
    time.sleep(0.25)
    task = ray.get_runtime_context().get_task_id()
    return batch.append_column("task", [[task] * len(batch)]).drop_columns("image")


def tasks(images):
    rows = images.map_batches(classify, batch_size=ROWS, batch_format="pyarrow").take_all()
    assert len(rows) == FILES * ROWS
    return len({row["task"] for row in rows})


read = ray.data.read_parquet
print("as read:", tasks(read("images")))
print("override_num_blocks=16:", tasks(read("images", override_num_blocks=FILES)))
print("repartition(16):", tasks(read("images").repartition(FILES)))
END

cat >expected <<'END'
as read: 1
override_num_blocks=16: 1
repartition(16): 16
END
echo "ray $RAY, pyarrow $PYARROW: tasks for 16 files on 4 CPUs"
HOME=$place environment/bin/python tasks.py 2>log | tee seen || { cat log; exit 1; }
diff expected seen
