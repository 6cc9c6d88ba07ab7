"""python -m trainer {base,sft,reward,ppo,sample} RUN_DIR: one training run.

python -m trainer crossvalidate RUN_DIR [--groups 5] [--seeds 1]: the labelers of a reward run.

--set FIELD=VALUE changes the configuration before the run begins, --kl-controller that of PPO's
penalty. It is written into spec.json, which is what result, model card and a resume go by.

Exit status: 0 done, 1 the run cannot go on (a plain sentence on standard error), 2 usage,
75 stopped by SIGTERM; started again, it goes on from the state that it saved last.

One trainer at a time works on a run directory; of several processes, which `accelerate launch`
starts, the first one holds it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from trainer.config import CONFIGS, ConfigError, KLController
from trainer.contract import (
    CHECKPOINTS,
    EXIT_STOPPED,
    RESULT,
    RUN_KINDS,
    SPEC,
    ContractError,
    RunSpec,
    check_inputs,
    inputs_of,
    read_result,
    read_spec,
    write_json,
)

CROSSVALIDATE = "crossvalidate"
# M_MMAP_MAX: no blocks of their own; M_TRIM_THRESHOLD: what the heap's end may keep; M_ARENA_MAX:
# one heap for all threads.
MALLOPT = {-4: 0, -1: 2**31 - 1, -8: 1}
PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="One training run. Started again, a run that was stopped goes on.",
        epilog="Exit status: 0 done, 1 it cannot go on, 2 usage, 75 stopped by SIGTERM.",
    )
    parser.add_argument(
        "kind",
        choices=(*RUN_KINDS, CROSSVALIDATE),
        help="the kind that the run's spec.json names; crossvalidate: the labelers of a reward run",
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        metavar="RUN_DIR",
        help="with spec.json and data/ (trainer/contract.py)",
    )
    parser.add_argument(
        "--groups", type=int, help="of labelers, when cross-validating (default: 5)"
    )
    parser.add_argument(
        "--seeds", type=int, help="of each fold, when cross-validating (default: 1)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="FIELD=VALUE",
        help="a value of the configuration (trainer/config.py); may be given several times",
    )
    parser.add_argument(
        "--kl-controller", choices=get_args(KLController), help="of PPO: --set kl_controller=…"
    )
    given = parser.parse_args(arguments)
    if given.kind != CROSSVALIDATE and (given.groups, given.seeds) != (None, None):
        parser.error(f"--groups and --seeds are of {CROSSVALIDATE}, not of {given.kind}")
    settings = dict(given.set)
    if given.kl_controller is not None:
        settings["kl_controller"] = given.kl_controller
    try:
        with _held(given.run_dir):
            return _start(given, settings)
    except (ContractError, ConfigError) as error:
        return _refuse(error)


def _start(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train, and return the exit status. Raises ContractError and ConfigError before that."""
    spec = read_spec(given.run_dir)
    if spec.kind != ("reward" if given.kind == CROSSVALIDATE else given.kind):
        raise ContractError(f"{given.run_dir}: its spec is of kind {spec.kind}")
    if settings:
        _configure(given.run_dir, spec, settings)
    result = None if given.kind == CROSSVALIDATE else read_result(given.run_dir)
    if result is not None:
        if result.inputs:  # an older trainer did not say
            made, instead = given.run_dir / RESULT, f"it and {CHECKPOINTS}/"
            check_inputs(result.inputs, inputs_of(given.run_dir, spec), made, instead)
        print(f"{given.run_dir}: it is done, {RESULT} is there", flush=True)
        return 0
    # Until checkpoints take the signal over there is nothing to save. Imports take seconds, and an
    # exception in the midst of them may be taken for a module that is not there.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_STOPPED))
    _end_with_launcher()
    # OpenMP reads this when torch is imported. Threads that spin while they wait for each other
    # make a step up to four times slower as soon as another process wants one of the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Hugging Face reads this when it is imported: local directories need no network.
    if all(Path(source).is_dir() for source in spec.models.values()):
        os.environ["HF_HUB_OFFLINE"] = "1"
    # transformers would import scipy for the losses of object detectors: a second for nothing.
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]

    from trainer.checkpoint import StopRequestedError
    from trainer.metrics import TrainingError

    _keep_freed_memory()
    try:
        _function(given)(given.run_dir)
    except StopRequestedError as stop:
        print(stop, flush=True)
        return EXIT_STOPPED
    except (ContractError, ConfigError, TrainingError) as error:
        return _refuse(error)
    return 0


@contextmanager
def _held(run_dir: Path) -> Iterator[None]:
    """Hold the run directory. Raises ContractError where another trainer does, or there is none."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        handle = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ContractError(f"{run_dir}: no run directory ({error.strerror})") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContractError(f"{run_dir}: another trainer works on it") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _end_with_launcher() -> None:
    """Have one of several processes asked to stop when their launcher ends, killed or not."""
    if "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end(status: int) -> NoReturn:
    """End this process; where there are others, once all have done their work.

    As the interpreter ends a thread of torch's may abort the process (seen in a tenth of runs on a
    busy CPU), and then the launcher ends the others, one of which may be writing the model: so all
    wait, and the interpreter is passed by. One that failed does neither: the launcher ends the
    others.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    together = distributed is not None and distributed.is_available()
    if status in (0, EXIT_STOPPED) and together and distributed.is_initialized():
        from accelerate.state import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _setting(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the value as JSON or else as it stands."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _configure(run_dir: Path, spec: RunSpec, settings: dict[str, Any]) -> None:
    """Write the settings into the run's spec. Raises ConfigError, or ContractError if it is over.

    Nothing is written for a run that has saved a state: it could not go on from it.
    """
    config = {**spec.config, **settings}
    CONFIGS[spec.kind].build(spec.preset, config)
    if config == spec.config:
        return
    if (run_dir / RESULT).exists():
        raise ContractError(f"{run_dir}: it has its {RESULT}; its configuration stays as it was")
    if any(p.name[5:].isdecimal() for p in (run_dir / CHECKPOINTS).glob("step_*")):
        raise ContractError(
            f"{run_dir}: it has begun; its configuration stays as it was, unless you remove "
            f"{run_dir / CHECKPOINTS} to start over"
        )
    try:
        write_json(run_dir / SPEC, replace(spec, config=config).to_json())
    except OSError as error:
        raise ContractError(f"{run_dir / SPEC} cannot be written: {error}") from error


def _keep_freed_memory() -> None:
    """Where tensors live on the CPU, have glibc keep what is freed for the next step.

    It maps large blocks and unmaps them when they are freed, so that each step has the system find
    and clear the same hundreds of megabytes again: a tenth of a step of SFT.
    """
    import torch

    if not torch.cuda.is_available() and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in MALLOPT.items():
            libc.mallopt(option, value)


def _refuse(error: Exception) -> int:
    print(f"trainer: {error}", file=sys.stderr, flush=True)
    return 1


def _function(given: argparse.Namespace) -> Callable[[Path], None]:
    kind: str = given.kind
    if kind == CROSSVALIDATE:
        from trainer.crossvalidate import crossvalidate

        asked = {"groups": given.groups, "seeds": given.seeds}
        return partial(crossvalidate, **{k: n for k, n in asked.items() if n is not None})
    if kind == "base":
        from trainer.base import train_base

        return train_base
    if kind == "sft":
        from trainer.sft import train_sft

        return train_sft
    if kind == "reward":
        from trainer.reward import train_reward

        return train_reward
    if kind == "ppo":
        from trainer.ppo import train_ppo

        return train_ppo
    from trainer.sample import run_sample

    return run_sample


if __name__ == "__main__":
    end(main())
