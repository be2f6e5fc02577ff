"""Many pictures: what goes where, who works on what, and what is done already.

::

    plan ─▶ jobs ─▶ (journal: done?) ─▶ worker processes ─▶ outcomes, one per job, as they come
                                           │
                                           └─ Restorer.begin ─▶ Restoration.save
"""

from unjpeg.batch.entries import JOURNAL, JournalEntry
from unjpeg.batch.planning import LEFT_OUT, NO_PICTURE, SUBFOLDER, Job, Plan, output_names, picture_suffixes, plan
from unjpeg.batch.workers import Outcome, count_known, find_done, restore_batch, worker_count
from unjpeg.settings import Settings

__all__ = [
    "JOURNAL",
    "LEFT_OUT",
    "NO_PICTURE",
    "SUBFOLDER",
    "Job",
    "JournalEntry",
    "Outcome",
    "Plan",
    "Settings",
    "count_known",
    "find_done",
    "output_names",
    "picture_suffixes",
    "plan",
    "restore_batch",
    "worker_count",
]
