"""Which raw data a run takes, and how its steps fail."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.__main__ import main
from pipeline.marketplace import MarketplaceError, simulation_step
from pipeline.steps import Step, StepError, run_steps
from simulator.config import Config
from simulator.simulation import simulate

ASKED = Config(customers=20, seed=3, start=date(2026, 1, 5), end=date(2026, 2, 9), signup_days=28)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default raw directory, moved to a scratch folder and not there yet."""
    monkeypatch.delenv("RAW_DATA_DIR", raising=False)
    monkeypatch.setattr("pipeline.marketplace.raw_data_dir", lambda: tmp_path / "raw")
    return tmp_path / "raw"


def test_a_marketplace_is_simulated_once(raw: Path) -> None:
    step = simulation_step(ASKED)
    assert step is not None
    assert {"--customers=20", "--signup-days=28", f"--out={raw}"} <= set(step.command)
    simulate(ASKED, raw)
    assert simulation_step(ASKED) is None


def test_another_marketplace_is_refused(raw: Path) -> None:
    simulate(ASKED, raw)
    with pytest.raises(MarketplaceError, match=r"holds another marketplace \(customers 20, .*make clean"):
        simulation_step(Config(customers=21, seed=3, start=ASKED.start, end=ASKED.end, signup_days=28))


def test_the_users_own_data_are_taken_as_they_are(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / "raw_calls").mkdir(parents=True)
    assert simulation_step(ASKED) is None
    monkeypatch.setenv("RAW_DATA_DIR", "/elsewhere")
    assert simulation_step(Config(customers=5)) is None


def test_steps_stop_at_the_first_that_fails() -> None:
    ran = Step("fails", (sys.executable, "-c", "raise SystemExit(3)"))
    never = Step("never", (sys.executable, "-c", "raise SystemExit(4)"))
    with pytest.raises(StepError, match=r"Step 1 of 2 \(fails\) failed with exit code 3"):
        run_steps(Console(quiet=True), [ran, never])


def test_bad_arguments_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--customers", "0"]) == 1
    assert "--customers must lie between 1 and 5000000, not 0" in capsys.readouterr().err
