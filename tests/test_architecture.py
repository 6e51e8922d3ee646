"""The order of the house: each wing imports only what stands below it."""

import ast
from pathlib import Path

import pytest

import nst_manual

PACKAGE = Path(nst_manual.__file__).parent

# From the top down. Wings on one line don't know each other.
ORDER = (
    ("__main__",),
    ("cli",),
    ("page",),
    ("__init__",),
    ("batch", "study", "styles"),
    ("story", "proof"),
    ("cluster",),
    ("problem",),
    ("runs",),
    ("tiles",),
    ("objective",),
    ("settings",),
    ("options",),
    ("presets",),
    ("weights",),
    ("guides",),
    ("optimise",),
    ("engines",),
    ("vgg",),
    ("losses",),
    ("layers",),
    ("roots",),
    ("pictures",),
    ("arrays",),
    ("errors",),
)
HEIGHT = {wing: -number for number, wings in enumerate(ORDER) for wing in wings}
FILES = sorted(PACKAGE.rglob("*.py"))


def wing(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(wing or None, module) of every import in a file, also inside functions; imports for types alone do not count."""
    inside = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, node.module
        elif isinstance(node, ast.ImportFrom):
            parts = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            parts = [part for part in parts if part]
            for alias in node.names:
                name = parts[0] if parts else alias.name if alias.name in HEIGHT else "__init__"
                yield name, alias.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_wing_imports_only_what_stands_below_it(path):
    here = wing(path)
    for there, name in imports(path):
        if there not in (None, here) and name != "__version__":
            assert HEIGHT[there] < HEIGHT[here], f"{here} imports {name} from {there}, which does not stand below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_says_what_is_in_it_and_only_one_file_prints(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    outside = {module.split(".")[0] for there, module in imports(path) if there is None}
    assert not outside & {"torch", "tensorflow", "jax", "keras"}
    if path.parent.name != "cuda":
        assert "cupy" not in outside
    if path.parent.name != "page":
        assert not outside & {"starlette", "uvicorn"}
    if path != PACKAGE / "cli" / "report.py":  # where everything is made fit for a terminal
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not [call for call in calls if getattr(call.func, "id", "") == "print"]


def test_there_are_few_rooms_on_the_ground_floor():
    assert len(list(PACKAGE.glob("*.py"))) <= 17


def test_the_package_has_the_names_that_it_lists_and_no_others():
    assert all(hasattr(nst_manual, name) for name in nst_manual.__all__)
    assert set(nst_manual.__all__) <= set(dir(nst_manual))
    assert not hasattr(nst_manual, "transfr")
