"""A run on a Ray cluster of two machines, both here; a worker and then a machine are killed under it.

``python two_machines.py ALBUM OUT MODEL`` prints, as its last line, what came of it as JSON. A process of its own: Ray
leaves threads behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from unjpeg import cluster
from unjpeg.batch import Settings
from unjpeg.cluster import JOURNAL_FOLDER, restore_on_cluster

STORE_BYTES = 80 * 2**20


def pids_at_work(output: Path) -> list[int]:
    """Processes that have begun a picture and not finished it, by the journal."""
    kept = [json.loads(path.read_bytes()) for path in (output / JOURNAL_FOLDER).glob("*/*.json")]
    return [record["process"] for record in kept if record.get("begun")]


def main(album: str, output: str, model: str) -> None:
    machines = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    second = machines.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
    cluster.INPUTS_PER_TASK = 2  # several tasks for each machine
    counts, killed, results = [len(machines.list_all_nodes())], False, []
    for result in restore_on_cluster([album], output, Settings(model=model), cores_per_worker=1):
        results.append(asdict(result))
        if len(results) >= 4 and not killed:
            deadline = time.monotonic() + 60
            while not killed and time.monotonic() < deadline:
                for process in pids_at_work(Path(output))[:1]:
                    os.kill(process, signal.SIGKILL)
                    killed = True
        if len(results) == 12:
            machines.remove_node(second, allow_graceful=False)
            counts.append(len(machines.list_all_nodes()))
    print(json.dumps({"machines": counts, "worker_killed": killed, "results": results}))
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])
