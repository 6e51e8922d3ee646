"""What the proof reports: a row of `check`'s table, the errors it tolerates, and a sentence for each failure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

# The tolerance of each column: the largest relative error that passes.
LIMITS = {"adjoint": 1e-13, "numeric": 1e-7, "pytorch": 1e-10}
ENGINE_LIMITS = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 5e-2}  # of the last column, by precision
ROOTS_LIMIT = 1e-9  # at least, where a GPU finds a covariance's root in another way: its condition may be 1e8
AGAINST = {
    "adjoint": "the dot test",
    "numeric": "finite differences",
    "pytorch": "PyTorch's autograd",
    "engine": "the float64 reference",
}


class Finding(NamedTuple):
    """Where a derivative differs most from what it is compared with, and by how much."""

    where: str
    expected: float
    found: float
    step: float | None = None  # of the finite differences

    def __str__(self) -> str:
        step = "" if self.step is None else f" (step {self.step:.3g})"
        return f"at {self.where} expected {self.expected:.9g}, found {self.found:.9g}{step}"


@dataclass(frozen=True)
class Check:
    """One row of the table: the relative errors of one derivative, each None where a comparison does not apply."""

    name: str
    adjoint: float | None = None  # dot test
    numeric: float | None = None  # finite differences
    pytorch: float | None = None  # autograd, in float64
    engine: float | None = None  # the engine in use against the float64 reference
    engine_limit: float = ENGINE_LIMITS["float32"]
    findings: Mapping[str, Finding] = field(default_factory=dict)  # by column, where its error is largest
    fault: str = ""  # for a whole objective: the first step of the network whose own derivative is wrong

    @property
    def passed(self) -> bool:
        return not self.failed()

    def errors(self) -> dict[str, float | None]:
        return {column: getattr(self, column) for column in AGAINST}

    def failed(self) -> dict[str, float]:
        """The columns whose error is too large, with their tolerances. NaN is too large."""
        limits = {**LIMITS, "engine": self.engine_limit}
        errors = self.errors().items()
        return {column: limits[column] for column, error in errors if error is not None and not error <= limits[column]}

    def explanation(self) -> str:
        """What is wrong, where, and what was expected; empty if the check passed."""
        parts = []
        for column, limit in self.failed().items():
            parts.append(f"by {AGAINST[column]} its relative error is {self.errors()[column]:.2g}, above {limit:.0e}")
            if column in self.findings:
                parts[-1] += f": {self.findings[column]}"
        if self.fault:
            parts.append(self.fault)
        return f"{self.name}: {'; '.join(parts)}" if parts else ""

    def compared(self, column: str, error: float, finding: Finding | None = None) -> "Check":
        """The same row with one more comparison."""
        errors: dict[str, Any] = {column: error}
        return replace(self, **errors, findings={**self.findings, **({column: finding} if finding else {})})

    def worse(self, other: "Check") -> "Check":
        """The larger error of two checks of the same derivative, column by column."""
        worst = self
        for column, theirs in other.errors().items():
            ours = getattr(self, column)
            if theirs is not None and (ours is None or ours < theirs or math.isnan(theirs)):
                worst = worst.compared(column, theirs, other.findings.get(column))
        return worst
