"""A run on a Ray cluster of two machines, both here; a worker and then a machine are killed under it.

``python two_machines.py ALBUM OUT MODEL`` prints, as its last line, what came of it as JSON. A process of its own: Ray
leaves threads behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from unjpeg import cluster
from unjpeg.cluster import JOURNAL_FOLDER, restore_on_cluster
from unjpeg.settings import Settings

STORE_BYTES = 80 * 2**20


def kill_a_worker(output: Path, killed: threading.Event) -> None:
    """Kill the first process that has begun a picture and not finished it, by the journal.

    From the beginning, and in a thread: results come in a while after the work, and pictures this small are done by
    then.
    """
    while not killed.is_set():
        for path in (output / JOURNAL_FOLDER).glob("*/*.json"):
            record: dict[str, Any] = {}
            with contextlib.suppress(ValueError, OSError):  # just being written
                record = json.loads(path.read_bytes())
            if record.get("begun") and not killed.is_set():
                os.kill(record["process"], signal.SIGKILL)
                killed.set()
        time.sleep(0.002)


def main(album: str, output: str, model: str) -> None:
    machines = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    second = machines.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
    cluster.INPUTS_PER_TASK = 2  # several tasks for each machine
    counts, killed, results = [len(machines.list_all_nodes())], threading.Event(), []
    threading.Thread(target=kill_a_worker, args=(Path(output), killed), daemon=True).start()
    for result in restore_on_cluster([album], output, Settings(model=model), cores_per_worker=1):
        results.append(asdict(result))
        if len(results) == 12:
            machines.remove_node(second, allow_graceful=False)
            counts.append(len(machines.list_all_nodes()))
    print(json.dumps({"machines": counts, "worker_killed": killed.is_set(), "results": results}))
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])
