"""Runs a module with a clock that is wrong: `python -m … HOURS MODULE ARGUMENT…`.

Everything in the process sees it: Celery, and whatever asks Python for the time.
"""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime, timedelta

import time_machine


if __name__ == "__main__":
    hours, module = float(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    wrong = datetime.now(UTC) + timedelta(hours=hours)
    with time_machine.travel(wrong, tick=True):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
