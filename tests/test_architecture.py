"""Who may import whom, as docs/architecture.md has it: read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("app", "trainer")
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Nothing that the web process may ever load: they take seconds, or hundreds of megabytes.
HEAVY = {"torch", "transformers", "accelerate", "numpy", "scipy", "pandas", "pyarrow"}

# Layers of the app, lowest first. A module imports from its own layer and those below.
LAYERS = (
    ("app.config", "app.logs", "app.processes", "app.home", "app.stats", "app.simulation"),
    ("app.db", "app.storage", "app.render", "app.errors", "app.bundled", "app.embedded"),
    ("app.models", "app.migrate"),
    ("app.services",),
    ("app.routes", "app.background", "app.execution", "app.sampling", "app.worker"),
    ("app.tasks", "app.main", "app.demo", "app.starter", "app.supervisor", "app.terminal"),
    ("app.doctor", "app.cli", "app.web"),
)


def imports(module: str, *, at_start: bool = False) -> Iterator[str]:
    """Modules that a module imports; `at_start`: only those loaded when it is."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes = tree.body if at_start else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def layer_of(module: str) -> int | None:
    for level, names in enumerate(LAYERS):
        if any(module == name or module.startswith((f"{name}.", f"{name}_")) for name in names):
            return level
    return None


def test_every_module_of_the_app_has_a_layer() -> None:
    assert [m for m in MODULES if m.startswith("app.") and layer_of(m) is None] == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("app.")])
def test_imports_point_downwards(module: str) -> None:
    mine = layer_of(module)
    assert mine is not None
    above = [
        other
        for other in imports(module, at_start=True)
        if (theirs := layer_of(other)) is not None and theirs > mine
    ]
    assert above == []


def test_the_app_never_imports_torch_and_only_the_contract_of_the_trainer() -> None:
    for module in MODULES:
        if module.startswith("app"):
            for other in imports(module):
                assert other.partition(".")[0] not in {"torch", "transformers", "accelerate"}
                assert not other.startswith("trainer") or other == "trainer.contract", module


def test_the_trainer_never_imports_the_app() -> None:
    for module in MODULES:
        if module.startswith("trainer"):
            assert not [other for other in imports(module) if other.startswith("app")], module


def test_the_client_needs_nothing_of_the_server() -> None:
    for path in (ROOT / "plumbline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", ())]
            named = [getattr(node, "module", None) or "", *names]
            assert not {name.partition(".")[0] for name in named} & {"app", "trainer"}, path


def test_statistics_and_the_contract_stand_alone() -> None:
    for module in MODULES:
        ours = [m for m in imports(module) if m.partition(".")[0] in {"app", "trainer"}]
        if module.startswith("app.stats"):
            assert all(other.startswith("app.stats") for other in ours), module
        if module == "trainer.contract":
            assert ours == []


def test_services_do_not_commit() -> None:
    """One commit point: a service that commits would split a request in two."""
    for module, path in MODULES.items():
        if module.startswith("app.services"):
            calls = [
                node
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "commit"
            ]
            assert calls == [], module


def loaded_by_the_web_process(*, later: bool) -> set[str]:
    """The modules of a web process that answers; `later`: that has loaded every page."""
    ask = "client.get('/api/docs').raise_for_status(); " if later else ""
    code = (
        "import sys; from starlette.testclient import TestClient; before = set(sys.modules); "
        "from app.main import create_app; client = TestClient(create_app()); "
        f"{ask}print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_web_process_starts_without_what_is_heavy() -> None:
    at_start = loaded_by_the_web_process(later=False)
    assert "app.routes.label" in at_start
    later = {"rich", "structlog", "celery", "alembic", "markdown_it", "fsspec", "phonenumbers"}
    later |= {"app.routes.api", "app.routes.studies", "app.services.preparation", "app.simulation"}
    assert at_start & (HEAVY | later) == set()


def test_the_web_process_never_loads_torch() -> None:
    loaded = loaded_by_the_web_process(later=True)
    assert {"app.routes.api", "app.routes.studies"} <= loaded
    assert loaded & HEAVY == set()
