"""python -m tests.trainer.play_runs RUN_DIR...: several runs in one process, one after another."""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.__main__ import main
from trainer.contract import read_spec

if __name__ == "__main__":
    sys.exit(max(main([read_spec(Path(run)).kind, run]) for run in sys.argv[1:]))
