"""Speed and memory of importing prompts: `python -m benchmarks.import_prompts [--prompts N]`.

Writes a JSONL file of N prompts and gives it to `plumbline import prompts` in a new home, with the
bundled database and all of preparation on. Of 50,000 users a few sent many; a tenth of the rows
name none; one in fifty is a near-duplicate, one in a hundred holds an e-mail address. The words
are made up, 60 a prompt, or with --texts FILE the prompts are those of that file (JSONL, plain or
gzip, in `prompt` or `chosen`), with a third of their words changed.

Every 0.2 s it looks at the processes: the memory of all at once (RSS; PSS counts what processes
share once), ours and the database's, and the processor time that each used. Linux only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAUSE = 0.2  # seconds between two looks
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def write_prompts(
    path: Path, count: int, *, texts: Path | None = None, users: int = 50_000, seed: int = 1
) -> None:
    draw = random.Random(seed)
    new = _varied(texts, draw) if texts else _made_up(draw)
    earlier: list[str] = []
    with path.open("w") as file:
        for number in range(count):
            if earlier and draw.random() < 0.02:
                text = draw.choice(earlier) + " please"
            else:
                text = next(new)
                if len(earlier) < 1_000:
                    earlier.append(text)
            if draw.random() < 0.01:
                text += f" Reply to {draw.choice('abcdefg')}.{draw.randrange(9_999)}@posteo.de."
            row = {"prompt_id": f"p{number}", "prompt": text}
            if draw.random() < 0.9:
                row["user"] = f"u{int(users * draw.random() ** 1.5)}"
            file.write(json.dumps(row) + "\n")


def _made_up(draw: random.Random) -> Iterator[str]:
    words = [
        "".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(20_000)
    ]
    openings = ["Write a", "Explain the", "Summarize this:", "What is the", "List ten"]
    while True:
        body = draw.choices(words, k=draw.randint(10, 110))
        yield f"{draw.choice(openings)} {' '.join(body)}."


def _varied(path: Path, draw: random.Random) -> Iterator[str]:
    """The file's prompts, in each a third of the words replaced by others that end alike."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    rows = [json.loads(line) for line in lines]
    pool = [str(row.get("prompt") or row.get("chosen")) for row in rows]
    words = [word for text in pool for word in text.split(" ") if word.isalpha()]
    while True:
        mine = draw.choice(pool).split(" ")
        for place, word in enumerate(mine):
            if word.isalpha() and draw.random() < 0.35:
                mine[place] = draw.choice(words)
        yield " ".join(mine)


@dataclass
class Watched:
    """The most that was seen of a command's processes."""

    ours: int = 0  # bytes of RSS at a time
    ours_shared_once: int = 0  # of PSS
    all: int = 0
    all_shared_once: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # of processor time, by kind
    used: dict[int, tuple[str, float]] = field(default_factory=dict)

    def look(self, root: int) -> None:
        mine = list(_below(root))
        sizes = {pid: (_rss(pid), _pss(pid)) for pid, _ in mine}
        ours = [sizes[pid] for pid, kind in mine if kind != "database"]
        self.ours = max(self.ours, sum(rss for rss, _ in ours))
        self.ours_shared_once = max(self.ours_shared_once, sum(pss for _, pss in ours))
        self.all = max(self.all, sum(rss for rss, _ in sizes.values()))
        self.all_shared_once = max(self.all_shared_once, sum(pss for _, pss in sizes.values()))
        for pid, kind in mine:
            self.used[pid] = (kind, max(processor_seconds(pid), self.used.get(pid, (kind, 0.0))[1]))
        self.seconds = {"command": 0.0, "helpers": 0.0, "database": 0.0}
        for kind, seconds in self.used.values():
            self.seconds[kind] += seconds


def _below(root: int) -> Iterator[tuple[int, str]]:
    """The process and all that it started, with what each is."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:  # it ended
            continue
        if not words:  # it ended, and nobody has asked how: nothing says any more what it was
            continue
        waiting += [int(child) for few in children for child in few.split()]
        if pid == root:
            yield pid, "command"
        else:
            yield pid, "helpers" if b"preparation.helpers" in words else "database"


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--texts", type=Path, help="a file of real prompts to vary")
    parser.add_argument("--again", action="store_true", help="import the same file a second time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        write_prompts(path, arguments.prompts, texts=arguments.texts)
        print(f"{path.stat().st_size / arguments.prompts:.0f} bytes a prompt")
        environment = os.environ | {"PLUMBLINE_HOME": str(Path(folder) / "home")}
        environment.pop("PLUMBLINE_DATABASE_URL", None)
        plumbline = [sys.executable, "-m", "app.cli"]
        subprocess.run([*plumbline, "study", "create", "Benchmark"], env=environment, check=True)
        for _ in range(2 if arguments.again else 1):
            command = [*plumbline, "import", "prompts", str(path), "--study", "benchmark"]
            _watch(command, environment, arguments.prompts)


def _watch(command: list[str], environment: dict[str, str], count: int) -> None:
    began = time.monotonic()
    watched = Watched()
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            watched.look(process.pid)
            time.sleep(PAUSE)
    seconds = time.monotonic() - began
    if process.returncode:
        sys.exit(process.returncode)
    worked = ", ".join(f"{kind} {used:.1f} s" for kind, used in watched.seconds.items())
    mega = 1 << 20
    print(
        f"{count:,} prompts in {seconds:.1f} s, the start and the end of the database included: "
        f"{count / seconds:,.0f} a second.\nProcessor time: {worked}.\n"
        f"Most memory: ours {watched.ours // mega} MB ({watched.ours_shared_once // mega} MB with "
        f"what is shared counted once), with the database {watched.all // mega} MB "
        f"({watched.all_shared_once // mega} MB).\n"
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    )


if __name__ == "__main__":
    main()
