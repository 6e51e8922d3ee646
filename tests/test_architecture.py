"""Who may import whom: the arrows of the house, kept true."""

import ast
from pathlib import Path

import pytest

import nst_manual

PACKAGE = Path(nst_manual.__file__).parent

# room → the rooms it may import; everyone may import errors and arrays
ARROWS = {
    "__init__": {"batch", "figures", "laboratory", "optimise", "results", "settings", "styles", "targets", "transfer"},
    "__main__": {"cli"},
    "cli": {
        *(
            "batch",
            "drawings",
            "engines",
            "explain",
            "figures",
            "files",
            "images",
            "laboratory",
            "optimise",
            "plots",
            "progress",
            "recipe",
            "results",
            "settings",
            "styles",
            "targets",
            "traces",
            "transfer",
            "verify",
            "verify_deep",
            "vgg",
            "weights",
        )
    },
    "batch": {
        *("checkpoint", "engines", "files", "forecast", "images", "inputs", "objective", "optimise", "recipe"),
        *("results", "settings", "targets", "transfer", "vgg", "watch"),
    },
    "styles": {
        *("engines", "images", "inputs", "objective", "scales", "settings", "targets", "transfer", "vgg"),
        "weights",
    },
    "targets": {"files", "settings", "vgg", "weights"},
    "laboratory": {"engines", "files", "images", "inputs", "maps", "objective", "settings", "transfer", "vgg"},
    "maps": set(),
    "verify_deep": {
        *("drawings", "engines", "inputs", "layers", "objective", "plots", "pytorch", "settings", "transfer"),
        *("verify", "vgg", "weights"),
    },
    "figures": {
        *("engines", "files", "forecast", "images", "inputs", "objective", "optimise", "plots", "recipe", "settings"),
        *("sheets", "traces", "transfer", "watch"),
    },
    "sheets": set(),
    "transfer": {
        *("calibrate", "checkpoint", "engines", "forecast", "images", "inputs", "objective", "optimise", "recipe"),
        *("results", "scales", "settings", "vgg", "watch", "weights"),
    },
    "watch": {
        *("checkpoint", "files", "images", "inputs", "journal", "optimise", "recipe", "results", "scales"),
        "settings",
    },
    "results": {"images", "optimise", "recipe", "settings"},
    "checkpoint": {"files", "optimise", "settings"},
    "inputs": {"checkpoint", "colours", "images", "objective", "scales", "settings", "vgg", "targets", "weights"},
    "scales": {"settings"},
    "forecast": {"calibrate", "engines", "inputs", "machine", "settings", "vgg", "weights"},
    "machine": set(),
    "verify": {"engines", "guides", "layers", "losses", "objective", "pytorch", "vgg"},
    "pytorch": {"objective", "vgg"},
    "settings": {"colours", "engines", "losses", "optimise", "vgg", "weights"},
    "calibrate": {"blas", "images", "layers", "vgg", "weights"},
    "objective": {"engines", "guides", "losses", "vgg"},
    "guides": {"vgg"},
    "colours": set(),
    "vgg": {"engines"},
    "engines": {"blas", "layers", "losses"},
    "weights": {"files", "layers", "engines", "images", "vgg"},
    "recipe": {"images", "inputs", "metadata", "settings", "weights", "targets"},
    "images": {"deep", "files", "metadata", "profiles"},
    "deep": set(),
    "files": set(),
    "metadata": set(),
    "profiles": set(),
    "explain": {"traces"},
    "progress": {"optimise"},
    "journal": {"files", "optimise", "plots", "traces"},
    "plots": {"files", "traces"},
    "traces": {"files", "optimise"},
    "optimise": {"blas"},
    "blas": set(),
    "losses": set(),
    "layers": set(),
    "drawings": set(),
    "arrays": set(),
    "errors": set(),
}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(room or outside module, top-level name) of every import in a file, those inside functions included."""
    inside = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (("outside", alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield "outside", node.module
        elif isinstance(node, ast.ImportFrom):
            parts = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            parts = [part for part in parts if part]
            yield from ([("room", parts[0])] if parts else [("room", alias.name) for alias in node.names])


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_it_may(path):
    here = room(path)
    found = {name for kind, name in imports(path) if kind == "room"} - {here, "errors", "arrays", "__version__"}
    assert found <= ARROWS[here]


def test_there_are_no_cycles():
    done = set()
    while rest := {name: arrows - done for name, arrows in ARROWS.items() if name not in done}:
        free = {name for name, arrows in rest.items() if not arrows}
        assert free, f"a cycle among {sorted(rest)}"
        done |= free


def test_no_framework_is_imported_and_cupy_only_by_engines():
    for path in FILES:
        outside = {name.split(".")[0] for kind, name in imports(path) if kind == "outside"}
        assert not outside & {"torch", "tensorflow", "jax", "keras"}, path
        if room(path) != "engines":
            assert "cupy" not in outside, path
            assert "cupy" not in path.read_text(encoding="utf-8").replace("CuPy", ""), path


def test_every_file_says_what_is_in_it():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_only_the_command_line_prints():
    for path in FILES:
        if path.name not in ("cli.py", "progress.py"):
            calls = [
                node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            ]
            assert not [call for call in calls if getattr(call.func, "id", "") == "print"], path
