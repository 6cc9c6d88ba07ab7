"""python -m tests.trainer.play_runs RUN_DIR...: several runs in one process, one after another.

Where the launcher asks for sharding, on the CPU too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer.__main__ import end, main
from trainer.contract import read_spec


def shard_on_cpu() -> None:
    """Do what accelerate's AcceleratorState does with a sharding configuration, but on a CPU.

    It heeds the configuration on accelerators only. What follows from it (preparing models,
    sharding them with torch's fully_shard, over gloo) has no such limit.
    """
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState

    state = Accelerator(cpu=True).state
    state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if state.mixed_precision != "no":
        state.fsdp_plugin.set_mixed_precision(state.mixed_precision)


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    end(max(main([read_spec(Path(run)).kind, run]) for run in sys.argv[1:]))
