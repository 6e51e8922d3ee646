"""The front door: what the README shows is what the program does."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_manual.cli.check import COLUMNS
from nst_manual.cli.main import build_parser, main
from nst_manual.engines import open_engine
from nst_manual.losses import STYLE_LOSSES, content_loss, style_loss
from nst_manual.objective import Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS, STYLE_LAYERS, Formula
from nst_manual.proof.checks import MEAN, NARROW, random_filters
from nst_manual.vgg import Network, steps_to, vgg_table, walk_down, walk_up
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "weights" / "README.md",
]


def commands(path):
    """Every `python -m nst_manual …` in the code blocks and code spans of a document."""
    for line in re.findall(r"python -m nst_manual ([^`\n#|…]*)", path.read_text(encoding="utf-8")):
        words = shlex.split(line.replace("\\", "/"))
        yield [word for word in words[: words.index("&&")] if word] if "&&" in words else words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_shown_is_one_that_the_program_takes(path):
    for words in commands(path):
        complete = any(word.startswith("-") or "." in word for word in words) or words in (["demo"], ["check"])
        if complete and "--help" not in words:
            build_parser().parse_args(words)
        elif words:  # a command's name in running text
            with pytest.raises(SystemExit) as end:
                build_parser().parse_args([*words, "--help"])
            assert end.value.code == 0


def test_the_commands_of_the_papers_page_run_as_printed_from_an_empty_folder(tmp_path, monkeypatch):
    """With fewer pixels, iterations and columns, and random filters; `weights get` alone is not run."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name in ("scene", "painting"):
        monkeypatch.setattr(f"nst_manual.cli.demo.{name}", lambda *size: Image.effect_noise(size, 80))
    full, thin = steps_to("conv5_1"), steps_to("conv5_2", vgg_table(((2, 6), (2, 8), (4, 8), (4, 10), (4, 10))))
    filters, narrow = (Weights(random_filters(steps, 0), MEAN, "oxford", "made here") for steps in (full, thin))
    monkeypatch.setattr("nst_manual.problem.calibrate", lambda *given, **options: narrow)
    few = ["--size", "32", "--iterations", "1"]
    less = {"demo": ["--size", "48"], "weights": ["--size", "32"], "grid": ["--ratios", "1", *few]}
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(lines) == 14
    for python, module, program, *words in lines:
        assert [python, module, program] == ["python", "-m", "nst_manual"]
        if words[:2] == ["weights", "get"]:
            write_hdf5(Path("vgg19.h5"), filters)
        else:
            assert main([*words, *less.get(words[0], less.get(words[1], few)), "--quiet"]) == 0, words


def anchors(path):
    """What links to a document's headings are called, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", path.read_text(encoding="utf-8")):
        goal = path.parent / target if target else path
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), f"{target}#{anchor}"


def test_the_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\npython -m pip install . && python -m nst_manual demo\n" in text
    assert "\npython -m pip install '.[test]' && python -m pytest\n" in text


def test_the_readme_shows_the_table_that_check_prints():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    heading = f"{'relative error against':<41}" + "".join(f"{title:>13}" for title in COLUMNS.values()) + "  verdict"
    table = text[text.index(heading) :].split("```")[0]
    assert table.count("  ok\n") == 33 + 2 * len(STYLE_LOSSES)
    assert "every derivative is right" in table


def test_the_eleven_lines_of_one_evaluation_run_and_are_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = text[text.index("loss, tape = 0.0, []") :].split("```")[0]
    assert len(snippet.strip().splitlines()) == 11
    rng = np.random.default_rng(0)
    image, content, style = (rng.uniform(0, 255, (18, 21, 3)) for _ in range(3))
    network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 1), MEAN, NARROW)
    formula, w_l = Formula(PRESETS["paper"]), dict.fromkeys(STYLE_LAYERS.split(","), 1.0)
    terms = style_terms(network, [Style(style)], w_l, formula, (18, 21))
    terms += content_terms(network, content, {"conv4_2": 1.0}, formula)
    names = {
        "network": network,
        "image": image,
        "styles": {term.layer: term.target for term in terms[:-1]},
        "target": terms[-1].target,
        "walk_up": walk_up,
        "walk_down": walk_down,
        "style_loss": style_loss,
        "content_loss": content_loss,
    }
    exec(snippet, names)
    expected = Objective(network, terms)(image)
    assert names["loss"] == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(names["d_image"], expected.gradient, rtol=1e-9, atol=1e-9)
