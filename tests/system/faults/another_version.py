"""Runs a module of another checkout: `python -m … DIRECTORY MODULE ARGUMENT…`."""

from __future__ import annotations

import os
import runpy
import sys


if __name__ == "__main__":
    directory, module = sys.argv[1:3]
    sys.argv = [module, *sys.argv[3:]]
    os.chdir(directory)
    sys.path[0] = directory
    runpy.run_module(module, run_name="__main__", alter_sys=True)
