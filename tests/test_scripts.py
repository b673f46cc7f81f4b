"""The project's own spec scripts, one for each proposal: `tests/scripts/*.wast`.

Each collects at every safepoint. What an optimiser could fold, `nans.wast`, is run at every level.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lowheap.config import OPT_LEVELS, Config
from lowheap.wasm.script import run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.wast"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.stem))
def test_a_script_of_the_projects_own_passes(script: Path) -> None:
    result = run_script(script, Config(opt_level=0), collect_every=1)
    assert result.failures == []
    assert result.skips == 0
    assert result.commands >= 20


@pytest.mark.parametrize("opt_level", OPT_LEVELS[1:])
def test_floats_are_the_standards_at_every_level(opt_level: int) -> None:
    (script,) = (each for each in SCRIPTS if each.stem == "nans")
    assert run_script(script, Config(opt_level=opt_level)).failures == []
