"""A row of the table: when it fails, and what it then says."""

from nst_manual.proof.report import Check, Finding


def test_a_check_fails_by_any_of_its_columns():
    assert Check("x", adjoint=1e-15, numeric=1e-9, pytorch=1e-14, engine=1e-6).passed
    assert not Check("x", adjoint=1e-9).passed
    assert not Check("x", numeric=1e-5).passed
    assert not Check("x", pytorch=1e-8).passed
    assert not Check("x", engine=1e-3).passed
    assert not Check("x", engine=float("nan")).passed
    assert not Check("x", engine=1e-6, engine_limit=1e-10).passed


def test_a_right_derivative_has_nothing_to_explain():
    assert Check("x", numeric=1e-9).explanation() == ""
    assert "x: by the dot test its relative error is nan" in Check("x", adjoint=float("nan")).explanation()


def test_the_worst_of_two_checks_keeps_its_place():
    at = [Finding(name, 1.0, 2.0) for name in ("here", "there")]
    one, other = (Check("x", numeric=error, findings={"numeric": f}) for error, f in zip((1e-9, 1e-3), at, strict=True))
    assert one.worse(other).findings["numeric"].where == other.worse(one).findings["numeric"].where == "there"
