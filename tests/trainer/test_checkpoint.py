"""What is kept of a run's checkpoints, what counts as one, and which is the best."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from trainer.checkpoint import STATE, TENSORS, Best, Checkpoints, StopRequestedError
from trainer.contract import CHECKPOINTS, ContractError, write_json
from trainer.metrics import Metrics, TrainingError, writing
from trainer.processes import Processes


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Checkpoints take SIGTERM over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def model_of(step: int) -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, step)
    return model


def checkpoints_of(
    tmp_path: Path, model: nn.Module, *, kept: int = 2, seconds: float = 0
) -> Checkpoints:
    parts = {"model": model, "other": nn.Linear(2, 1)}
    inputs = {"spec.json": "abc"}
    return Checkpoints(tmp_path, parts, Processes(), inputs=inputs, seconds=seconds, kept=kept)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())


def train(tmp_path: Path, figures: dict[int, float | None], kept: int, seconds: float = 0) -> None:
    """A run whose weight is its step, resumed before each of these steps."""
    for step, figure in figures.items():
        checkpoints = checkpoints_of(tmp_path, model_of(0), kept=kept, seconds=seconds)
        checkpoints.resume()
        nn.init.constant_(checkpoints.parts["model"].weight, step)  # type: ignore[attr-defined]
        checkpoints.after(step, figure)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    train(tmp_path, dict.fromkeys(range(1, 6)), kept=3)
    assert names(tmp_path) == ["step_3", "step_4", "step_5"]


def test_the_best_is_kept_beside_the_newest_and_can_be_loaded(tmp_path: Path) -> None:
    train(tmp_path, {1: -3.0, 2: -1.0, 3: None, 4: -1.0, 5: -2.0, 6: None}, kept=2)
    assert names(tmp_path) == ["step_2", "step_5", "step_6"]  # the first of two that are even
    model = model_of(0)
    checkpoints = checkpoints_of(tmp_path, model)
    other = checkpoints.parts["other"].state_dict()["weight"].clone()
    assert checkpoints.resume() == 6
    assert checkpoints.best == Best(2, -1.0)
    assert model.weight.item() == 6
    assert not torch.equal(checkpoints.parts["other"].state_dict()["weight"], other)
    checkpoints.load_best("model")
    assert model.weight.item() == 2
    checkpoints.after(7, 0.5)
    assert names(tmp_path) == ["step_6", "step_7"]


def test_the_best_is_saved_before_its_time(tmp_path: Path) -> None:
    train(tmp_path, {1: 1.0, 2: 0.5, 3: None, 4: 2.0}, kept=2, seconds=1e9)
    assert names(tmp_path) == ["step_1", "step_4"]


def test_half_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    train(tmp_path, {1: None}, kept=2)
    half = tmp_path / CHECKPOINTS / ".step_2"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints_of(tmp_path, model_of(0)).resume() == 1
    assert names(tmp_path) == ["step_1"]


@pytest.mark.parametrize("kept", [1, 2])
def test_a_kill_anywhere_in_a_write_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    run, killed = tmp_path / "run", tmp_path / "killed"
    run.mkdir()
    train(run, {1: None, 2: None}, kept=kept)
    moments: list[Path] = []

    def moment() -> None:
        moments.append(shutil.copytree(run, killed / str(len(moments))))

    def in_halves(path: Path) -> None:
        written = path.read_bytes()
        for size in (0, len(written) // 2, len(written)):
            path.write_bytes(written[:size])
            moment()

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        in_halves(path)

    def write(path: Path, value: object) -> None:
        write_json(path, value)
        in_halves(path)

    def rename(path: Path, target: Path) -> Path:
        moment()
        moved = renamed(path, target)
        moment()
        return moved

    def remove(path: Path, *, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / TENSORS).unlink()
            moment()
        removed(path, ignore_errors=ignore_errors)

    renamed, removed = Path.rename, shutil.rmtree
    with monkeypatch.context() as patched:
        patched.setattr("trainer.checkpoint.save_file", save)
        patched.setattr("trainer.checkpoint.write_json", write)
        patched.setattr(Path, "rename", rename)
        patched.setattr(shutil, "rmtree", remove)
        checkpoints_of(run, model_of(3), kept=kept).save(3)
    assert names(run) == ["step_2", "step_3"][-kept:]

    found = []
    for left in moments:
        for path in (left / CHECKPOINTS).glob("step_*"):
            assert {each.name for each in path.iterdir()} == {TENSORS, STATE}
        model = model_of(0)
        found.append(checkpoints_of(left, model).resume())
        assert model.weight.item() == found[-1]
    assert found == sorted(found)
    assert set(found) == {2, 3}


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"{path.name} to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpoints_of(tmp_path, model_of(1)).save(1)
    named = done.index(".step_1 to step_1")
    for written in (TENSORS, STATE, ".step_1"):
        assert any(written in name for name in done[:named]), written
    assert done[named + 1] == CHECKPOINTS


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    train(tmp_path, {1: None}, kept=1)
    directory = tmp_path / CHECKPOINTS
    foreign = [".DS_Store", ".step_3", ".step_4_copy", "step_12_copy", "step_9", "step_old"]
    for name in foreign[:2]:
        (directory / name).write_bytes(b"")
    for name in foreign[2:]:
        shutil.copytree(directory / "step_1", directory / name)
    shutil.rmtree(directory / "step_9")
    (directory / "step_9").write_bytes(b"")
    assert checkpoints_of(tmp_path, model_of(0)).resume() == 1
    train(tmp_path, {2: None}, kept=1)
    assert names(tmp_path) == sorted([*foreign, "step_2"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def half_a_state(path: Path) -> None:
    path.write_text(json.dumps({"step": 2, "inputs": {"spec.json": "abc"}}))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (TENSORS, cut),
        (TENSORS, emptied),
        (TENSORS, Path.unlink),
        (STATE, cut),
        (STATE, emptied),
        (STATE, Path.unlink),
        (STATE, half_a_state),
    ],
)
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    train(tmp_path, {1: None, 2: None}, kept=2)
    newest, before = (tmp_path / CHECKPOINTS / name for name in ("step_2", "step_1"))
    damage(newest / file)
    advice = r"step_2: it is damaged \(.+\); it can be removed, to go on from the one before$"
    with pytest.raises(ContractError, match=advice):
        checkpoints_of(tmp_path, model_of(0)).resume()
    shutil.rmtree(newest)
    assert checkpoints_of(tmp_path, model_of(0)).resume() == 1
    damage(before / file)
    with pytest.raises(ContractError, match=r"step_1: .*; it can be removed, to start over$"):
        checkpoints_of(tmp_path, model_of(0)).resume()


def test_a_best_checkpoint_that_is_damaged_has_none_before_it(tmp_path: Path) -> None:
    train(tmp_path, {1: 1.0, 2: None}, kept=1)
    checkpoints = checkpoints_of(tmp_path, model_of(0))
    assert checkpoints.resume() == 2
    cut(tmp_path / CHECKPOINTS / "step_1" / TENSORS)
    with pytest.raises(ContractError, match=r"step_1: .*; remove .*/checkpoints to start over$"):
        checkpoints.load_best("model")


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, {1: None}, kept=1)
    monkeypatch.setattr(Path, "read_text", refused(errno.EACCES))
    with pytest.raises(ContractError, match=r"step_1: cannot be read: .*Permission denied"):
        checkpoints_of(tmp_path, model_of(0)).resume()


def refused(number: int) -> Callable[..., None]:
    """A function of the system that fails, whoever runs the tests."""

    def refuse(*_args: object, ignore_errors: bool = False, **_options: object) -> None:
        if not ignore_errors:
            raise OSError(number, os.strerror(number))

    return refuse


def test_a_read_only_directory_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics(tmp_path, total_steps=9)
    metrics.write(1, {"loss": 0.5})
    train(tmp_path, {1: None}, kept=1)
    (tmp_path / CHECKPOINTS / ".step_2").mkdir()
    monkeypatch.setattr(os, "truncate", refused(errno.EROFS))
    monkeypatch.setattr(shutil, "rmtree", refused(errno.EROFS))
    sentence = r"{} cannot be written: \[Errno 30\] Read-only file system$"
    with pytest.raises(TrainingError, match=sentence.format(r"metrics\.jsonl")):
        metrics.begin()
    with pytest.raises(TrainingError, match=sentence.format(CHECKPOINTS)):
        checkpoints_of(tmp_path, model_of(0)).resume()
    (tmp_path / CHECKPOINTS / ".step_2").rmdir()
    with pytest.raises(TrainingError, match=sentence.format(CHECKPOINTS)):
        train(tmp_path, {2: None}, kept=1)  # the older is removed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
        Exception("No space left on device (os error 28)"),  # as of tokenizers
    ],
)
def test_room_is_asked_for_where_it_is_missing(error: Exception) -> None:
    advice = r"^file cannot be written: .*; make room and start the run again"
    with pytest.raises(TrainingError, match=advice), writing(Path("file")):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
        SafetensorError("Error while serializing: invalid"),
    ],
)
def test_no_room_is_asked_for_where_another_thing_is_amiss(error: Exception) -> None:
    with pytest.raises(TrainingError) as told, writing(Path("file")):
        raise error
    assert str(told.value) == f"file cannot be written: {error}"


def test_an_error_that_is_not_of_writing_stays_what_it_is() -> None:
    with pytest.raises(KeyError), writing(Path("file")):
        raise KeyError


def test_a_stop_holds_for_whatever_the_process_does_next(tmp_path: Path) -> None:
    """As in cross-validation, where it may come while the figures of one fold are computed."""
    checkpoints_of(tmp_path, model_of(0))
    os.kill(os.getpid(), signal.SIGTERM)
    following = checkpoints_of(tmp_path, model_of(0), seconds=1e9)
    with pytest.raises(StopRequestedError, match="stopped after step 1"):
        following.after(1)
    assert names(tmp_path) == ["step_1"]
    following.after(2)
    assert names(tmp_path) == ["step_1"]


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    train(tmp_path, {1: None}, kept=2)
    later = checkpoints_of(tmp_path, model_of(0))
    later.parts = {**later.parts, "new": model_of(0)}
    with pytest.raises(ContractError, match="made by another version of the trainer"):
        later.resume()
    path = tmp_path / CHECKPOINTS / "step_1" / STATE
    state = json.loads(path.read_text())
    path.write_text(json.dumps({key: state[key] for key in state if key != "inputs"}))
    with pytest.raises(ContractError, match="made by another version of the trainer"):
        checkpoints_of(tmp_path, model_of(0)).resume()


def test_lines_of_metrics_that_were_lost_are_not_counted(tmp_path: Path) -> None:
    """As when the machine went down, and the state was on the disk and they were not."""
    metrics = Metrics(tmp_path, total_steps=9)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 0.5})
    whole = metrics.path.read_text().splitlines(keepends=True)
    metrics.path.write_text(whole[0] + whole[1][:9])
    metrics.begin()
    assert metrics.path.read_text() == whole[0]
    metrics.write(4, {"loss": 0.5})
    metrics.begin()
    steps = [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()]
    assert steps == [1, 4]
