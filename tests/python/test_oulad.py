"""examples/oulad: the mapping against pandas, and the whole pipeline on some of the students.

The data set is no part of the repository. These tests run where OULAD_DIR names it, or where it lies in
../shared/data/oulad, and are skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml

from examples.oulad.raw_tables import RAW_TABLES, open_mapping, write_raw_tables
from examples.oulad.source import DOWNLOAD, TABLES, OuladError, data_directory
from examples.oulad.workspace import Workspace, prepare
from feature_repo.paths import repository_root
from scoring.release import OPTIONAL_MODELS, read_champion

ROOT = repository_root()
# Where CI has it too: a clone has the shared folder beside it.
OULAD = Path(os.environ.get("OULAD_DIR") or ROOT.parent / "shared" / "data" / "oulad")
needs_oulad = pytest.mark.skipif(
    not OULAD.is_dir(),
    reason=f"the OULAD data set is not there ({OULAD}): download it from {DOWNLOAD} and set OULAD_DIR",
)
STUDENTS = 450
NOON = timedelta(hours=12)
STARTS = {"B": 2, "J": 10}


@dataclass(frozen=True)
class Mapped:
    """A raw directory and its tables as pandas frames."""

    directory: Path

    def __getitem__(self, name: str) -> pd.DataFrame:
        return duckdb.sql(f"from read_parquet('{self.directory / name}/*.parquet')").df()


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """The raw tables of all students, all that ever landed."""
    out = tmp_path_factory.mktemp("oulad") / "raw"
    with open_mapping(OULAD) as connection:
        write_raw_tables(connection, out)
    return Mapped(out)


@pytest.fixture(scope="module")
def source() -> dict[str, pd.DataFrame]:
    """The data set in pandas, cut to the presentations whose clicks are complete."""
    frames = {
        name: pd.read_parquet(next(OULAD.glob(table.parquet)))
        for name, table in TABLES.items()
        if list(OULAD.glob(table.parquet))
    }
    if len(frames) < len(TABLES):
        pytest.skip("the comparison with pandas reads the Parquet form of the data set")
    courses = frames["courses"].set_index(["code_module", "code_presentation"])["module_presentation_length"]
    last = frames["student_vle"].groupby(["code_module", "code_presentation"])["date"].max()
    complete = {key for key, day in last.items() if day >= courses[key] - 7}
    for name, frame in frames.items():
        if "code_presentation" in frame:
            keys = list(zip(frame["code_module"], frame["code_presentation"], strict=True))
            frames[name] = frame[[key in complete for key in keys]]
    return frames


def start_of(presentation: str) -> datetime:
    return datetime(int(presentation[:4]), STARTS[presentation[4]], 1)


def customer_of(row) -> str:
    return f"{row.id_student}-{row.code_presentation}"


# === The mapping ============================================================================================


@needs_oulad
def test_which_presentations_are_taken(mapped: Mapped) -> None:
    with open_mapping(OULAD) as connection:
        found = connection.execute(
            "select code_module, code_presentation, starts_on from presentations order by all"
        ).fetchall()
    if any(OULAD.glob("student_vle_first_*.parquet")):  # the cut log; the whole one has all 22
        assert found == [
            ("AAA", "2013J", date(2013, 10, 1)),
            ("AAA", "2014J", date(2014, 10, 1)),
            ("BBB", "2013B", date(2013, 2, 1)),
        ]
    assert set(mapped["raw_tutors"]["subjects"]) == {module for module, *_ in found}


@needs_oulad
def test_study_days_logins_messages_and_calls_are_the_days_of_the_log(mapped: Mapped, source) -> None:
    kind = source["vle"].set_index(["code_module", "code_presentation", "id_site"])["activity_type"]
    expected: dict[str, set[tuple[str, datetime]]] = {
        "content": set(),
        "login": set(),
        "message_sent": set(),
        "call": set(),
    }
    clicks = source["student_vle"].drop_duplicates(
        ["code_module", "code_presentation", "id_student", "id_site", "date"]
    )
    kinds = kind.to_dict()
    starts = {presentation: start_of(presentation) for presentation in clicks["code_presentation"].unique()}
    for row in clicks.itertuples():
        day = (customer_of(row), starts[row.code_presentation] + timedelta(days=int(row.date)) + NOON)
        expected["login"].add(day)
        match kinds[(row.code_module, row.code_presentation, row.id_site)]:
            case "homepage":
                pass
            case "forumng":
                expected["message_sent"].add(day)
            case "ouelluminate" | "oucollaborate":
                expected["call"].add(day)
            case _:
                expected["content"].add(day)
    sessions = mapped["raw_sessions"]
    study = sessions[sessions["session_id"].str.fullmatch(r".*-D-?\d+")]
    assert set(study["status"]) == {"completed"}
    found = {
        "content": study[["customer_id", "resolved_at"]],
        "call": mapped["raw_calls"][["customer_id", "called_at"]],
    }
    events = mapped["raw_app_events"]
    for name in ("login", "message_sent"):
        found[name] = events[events["event_type"] == name][["customer_id", "occurred_at"]]
    for name, frame in found.items():
        days = list(frame.itertuples(index=False, name=None))
        assert len(days) == len(set(days)), f"a {name} day twice"
        assert set(days) == expected[name], name


@needs_oulad
def test_appointments_are_the_assessments_as_they_became_known(mapped: Mapped, source) -> None:
    """Each version of each appointment, for some students, by a loop that thinks of one at a time."""
    results = {
        (row.id_assessment, row.id_student): row
        for row in source["student_assessment"].itertuples(index=False)
    }
    with_results = {assessment for assessment, _ in results}
    courses = source["courses"].set_index(["code_module", "code_presentation"])["module_presentation_length"]
    registrations = source["student_registration"].sort_values("id_student").iloc[::9]
    expected = set()
    for student in registrations.itertuples(index=False):
        if pd.isna(student.date_registration):
            continue
        start = start_of(student.code_presentation) + NOON
        same = source["assessments"]
        same = same[
            (same["code_module"] == student.code_module)
            & (same["code_presentation"] == student.code_presentation)
        ]
        for assessment in same.itertuples(index=False):
            result = results.get((assessment.id_assessment, student.id_student))
            if assessment.id_assessment not in with_results or (result is not None and result.is_banked):
                continue
            length = int(courses[(student.code_module, student.code_presentation)])
            due_day = length if pd.isna(assessment.date) else int(assessment.date)
            if result is None and due_day < student.date_registration:
                continue
            name = f"{customer_of(student)}-A{assessment.id_assessment}"
            due = start + timedelta(days=due_day)
            booked = start + timedelta(days=max(0, int(student.date_registration)))
            missed = due + timedelta(days=14)
            submitted = None
            if result is not None:
                submitted = start + timedelta(days=int(result.date_submitted))
                booked = min(booked, submitted)
            versions = []
            if booked < (submitted or missed):
                versions.append((booked, "scheduled", None, None, None))
            if booked < missed and (submitted is None or submitted > missed):
                versions.append((missed, "no_show", missed, None, None))
            if submitted is not None:
                computer = assessment.assessment_type == "CMA"
                happened = min(due, submitted) if computer else submitted
                marked = submitted if computer else submitted + timedelta(days=14)
                stars = (
                    None
                    if pd.isna(result.score)
                    else 1 + sum(result.score >= low for low in (40, 55, 70, 85))
                )
                if stars is None or marked > submitted:
                    versions.append((submitted, "completed", happened, None, None))
                if stars is not None:
                    versions.append((marked, "completed", happened, stars, marked))
            for known, *rest in versions:
                landed = datetime(known.year, known.month, known.day) + timedelta(hours=26)
                expected.add((name, due, booked, *rest, landed))
    sessions = mapped["raw_sessions"]
    chosen = {
        f"{customer_of(row)}" for row in registrations.itertuples() if not pd.isna(row.date_registration)
    }
    sessions = sessions[
        sessions["session_id"].str.fullmatch(r".*-A\d+") & sessions["customer_id"].isin(chosen)
    ]
    found = {
        tuple(None if pd.isna(value) else value for value in row)
        for row in sessions[
            [
                "session_id",
                "scheduled_at",
                "booked_at",
                "status",
                "resolved_at",
                "rating",
                "rated_at",
                "loaded_at",
            ]
        ].itertuples(index=False, name=None)
    }
    assert len(found) == len(sessions) > 1000
    assert found == expected


@needs_oulad
def test_profiles_payments_and_tutors(mapped: Mapped, source) -> None:
    student = source["student_info"].merge(source["student_registration"])
    customers = mapped["raw_customers"].set_index("customer_id")
    payments = mapped["raw_payments"].set_index("customer_id")
    tutors = set(mapped["raw_tutors"]["tutor_id"])
    assert customers.index.is_unique and payments.index.is_unique
    registered = student.groupby(["id_student", "code_presentation"])["date_registration"].min()
    credits = student.groupby(["id_student", "code_presentation"])["studied_credits"].max()
    assert len(customers) == len(registered)
    for (number, presentation), day in registered.items():
        customer = f"{number}-{presentation}"
        if pd.isna(day):
            assert pd.isna(customers.loc[customer, "signed_up_at"]) and customer not in payments.index
            continue
        signup = start_of(presentation) + timedelta(days=int(day)) + NOON
        assert customers.loc[customer, "signed_up_at"] == signup
        assert payments.loc[customer, "attempted_at"] == signup
        assert payments.loc[customer, "amount"] == credits[(number, presentation)]
    assert tutors == {f"{row.code_module} {row.region}" for row in student.itertuples()}
    assert set(mapped["raw_sessions"]["tutor_id"]) <= tutors


@needs_oulad
@pytest.mark.parametrize(
    ("table", "events"),
    [
        ("raw_customers", ["signed_up_at"]),
        ("raw_sessions", ["booked_at", "resolved_at", "rated_at"]),
        ("raw_calls", ["called_at"]),
        ("raw_payments", ["attempted_at"]),
        ("raw_app_events", ["occurred_at"]),
    ],
)
def test_nothing_lands_before_it_has_happened(mapped: Mapped, table: str, events: list[str]) -> None:
    frame = mapped[table]
    for event in events:
        assert not (frame[event] > frame["loaded_at"]).any(), event
    for file in (mapped.directory / table).iterdir():
        landed = duckdb.sql(f"select distinct cast(loaded_at as date) from read_parquet('{file}')").fetchall()
        assert [str(day) for (day,) in landed] == [file.stem]


def copied(target: Path, changes: dict[str, str]) -> Path:
    """The data set with the columns of some files replaced by SQL expressions."""
    target.mkdir()
    for file in OULAD.glob("*.parquet"):
        if file.stem in changes:
            duckdb.sql(
                f"copy (select * replace ({changes[file.stem]}) from read_parquet('{file}')) "
                f"to '{target / file.name}' (format parquet)"
            )
        else:
            (target / file.name).symlink_to(file)
    return target


def raw_bytes(data: Path, out: Path, students: int | None = None) -> dict[str, bytes]:
    with open_mapping(data, students) as connection:
        write_raw_tables(connection, out)
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.parquet"))}


@needs_oulad
def test_no_raw_table_knows_who_left(mapped: Mapped, tmp_path: Path) -> None:
    if not list(OULAD.glob("student_registration.parquet")):
        pytest.skip("scrambles the Parquet form of the data set")
    scrambled = copied(
        tmp_path / "scrambled",
        {
            "student_registration": "case when hash(id_student) % 3 > 0 then hash(id_student) % 200 end "
            "as date_unregistration",
            "student": "case hash(id_student) % 2 when 0 then 'Withdrawn' else 'Pass' end as final_result",
        },
    )
    got = raw_bytes(scrambled, tmp_path / "raw")
    expected = {
        str(file.relative_to(mapped.directory)): file.read_bytes()
        for file in sorted(mapped.directory.rglob("*.parquet"))
    }
    assert got == expected
    # And the comparison sees what does matter.
    moved = copied(tmp_path / "moved", {"student_registration": "date_registration - 1 as date_registration"})
    assert raw_bytes(moved, tmp_path / "other") != expected


@needs_oulad
def test_the_csv_files_as_downloaded_give_the_same_bytes(tmp_path: Path) -> None:
    """With question marks for what is unknown, as one of the published versions has it."""
    if any(OULAD.glob("*.csv")):
        pytest.skip("the data set is there as CSV already")
    csv = tmp_path / "csv"
    csv.mkdir()
    for table in TABLES.values():
        file = next(OULAD.glob(table.parquet))
        banked = "replace (cast(is_banked as integer) as is_banked)" if "is_banked" in table.columns else ""
        duckdb.sql(
            f"copy (select * {banked} from read_parquet('{file}')) "
            f"to '{csv / table.csv}' (header, nullstr '?')"
        )
    assert raw_bytes(csv, tmp_path / "a", 100) == raw_bytes(OULAD, tmp_path / "b", 100)


# === What is wrong is said in one sentence ==================================================================


def example(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.oulad", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_data_it_says_where_they_are_to_be_had(tmp_path: Path) -> None:
    run = example("--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert run.returncode == 1
    assert run.stderr.startswith(
        f"make oulad: There is no directory {tmp_path / 'nowhere'} with the OULAD data"
    )
    assert DOWNLOAD in run.stderr and "studentVle.csv" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OuladError, match=r"must hold one of courses\.csv and course\.parquet; it has none"):
        open_mapping(tmp_path)
    with pytest.raises(OuladError, match="There is no directory"):
        data_directory(tmp_path / "none")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A data set of one student in each of three terms, as CSV."""
    terms = ("2013B", "2013J", "2014J")
    files = {
        "courses": "code_module,code_presentation,module_presentation_length\n"
        + "".join(f"AAA,{term},200\n" for term in terms),
        "studentInfo": "code_module,code_presentation,id_student,region,studied_credits\n"
        + "".join(f"AAA,{term},7,Wales,60\n" for term in terms),
        "studentRegistration": "code_module,code_presentation,id_student,date_registration\n"
        + "".join(f"AAA,{term},7,-20\n" for term in terms),
        "assessments": "id_assessment,code_module,code_presentation,assessment_type,date,weight\n"
        "1,AAA,2013B,TMA,30,10\n",
        "studentAssessment": "id_assessment,id_student,date_submitted,is_banked,score\n1,7,29,0,84\n",
        "vle": "id_site,code_module,code_presentation,activity_type\n"
        + "".join(f"5,AAA,{term},oucontent\n" for term in terms),
        "studentVle": "code_module,code_presentation,id_student,id_site,date,sum_click\n"
        + "".join(f"AAA,{term},7,5,{day},3\n" for term in terms for day in (0, 10, 199)),
    }
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_a_tiny_data_set_as_downloaded(tiny: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    rows, as_of = prepare(tiny, workspace)
    # 2014-10-01 + 200 days is 2015-04-19; 60 days before is a Wednesday, 2015-02-18.
    assert as_of == date(2015, 2, 16)
    assert rows["raw_customers"] == 3
    assert rows["raw_sessions"] == 3 + 3 + 2 + 3  # study days of three terms (one too late), appointment
    assert rows["raw_tutor_availability"] == 0
    assert sorted(RAW_TABLES) == sorted(folder.name for folder in (workspace.root / "raw").iterdir())
    assert workspace.split.read_text().splitlines() == [
        "customer_id,block,first_day,last_day",
        "7-2013B,fit,2013-02-01,2013-08-20",
        "7-2013J,choose,2013-10-01,2014-04-19",
        "7-2014J,report,2014-10-01,2015-04-19",
    ]
    seeds = workspace.root / "seeds"
    assert (seeds / "subjects.csv").read_text() == "subject,code\nAAA,0\n"
    for seed in (ROOT / "seeds").iterdir():
        if seed.name != "subjects.csv":
            assert (seeds / seed.name).read_bytes() == seed.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "vle.csv").unlink(), "must hold one of vle.csv and vle.parquet"),
        (
            lambda folder: (folder / "vle.csv").write_text(
                "id_site,code_module,code_presentation\n5,AAA,2013B\n"
            ),
            r"vle\.csv has no column activity_type: found only id_site, code_module, code_presentation",
        ),
        (
            lambda folder: shutil.copy(folder / "studentVle.csv", folder / "student_vle_1.parquet"),
            "student_vle_1.parquet",
        ),
        (
            lambda folder: replace_in(folder / "courses.csv", "2014J", "2014X"),
            "Presentation 2014X starts in no month that we know",
        ),
        (
            lambda folder: replace_in(folder / "studentVle.csv", ",199,", ",150,"),
            "holds no presentation whose clicks reach to its end",
        ),
        (
            lambda folder: replace_in(folder / "studentVle.csv", "AAA,2013B,7,5,199,3\n", ""),
            r"2 complete presentation terms one after the other \(2013J, 2014J\), and the split needs 3",
        ),
        (
            lambda folder: replace_in(folder / "studentRegistration.csv", "-20", "soon"),
            r'Line: 2.*column "date_registration".*"soon".*studentRegistration\.csv',
        ),
    ],
)
def test_broken_data_are_refused_in_one_sentence(
    tiny: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tiny)
    with pytest.raises(OuladError, match=message) as error:
        prepare(tiny, Workspace(tmp_path / "work"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work" / "raw").exists()


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# === The whole pipeline =====================================================================================


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where some of the students went through everything, and what was printed."""
    out = tmp_path_factory.mktemp("built") / "oulad"
    run = example("--data", str(OULAD), "--out", str(out), "--students", str(STUDENTS))
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    return out, run.stdout


def rows(out: Path, query: str) -> list[tuple]:
    with duckdb.connect(str(out / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(query).fetchall()


@needs_oulad
def test_everything_is_built_in_a_place_of_its_own(built: tuple[Path, str]) -> None:
    out, printed = built
    assert (out / "models" / "champion.json").exists() and (out / "feast" / "online.db").exists()
    assert yaml.safe_load((out / "feature_store.yaml").read_text())["project"] == "customer_health"
    assert rows(out, "select count(*) from marts.customer_health_current")[0][0] > 20
    for words in (
        "Raw tables",
        "Champion on held-out",
        "Churn risk against withdrawal",
        "raw_tutors has nothing",
    ):
        assert words in printed
    assert str(out / "report" / "report.html") in printed.replace("\n", "")
    assert "29.3 %" not in printed  # reference figures of a simulated marketplace
    tracked = subprocess.run(
        ["git", "status", "--porcelain", "seeds"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert tracked.stdout == ""


def test_no_command_that_is_pointed_here_leaves_the_workspace(tmp_path: Path) -> None:
    """Every variable that operations.md names for a place of data has one of the example's own."""
    documented = re.findall(r"^\| `([A-Z_]+)` \| `(\S+)` \|", (ROOT / "docs/operations.md").read_text(), re.M)
    places = {name for name, default in documented if "data/" in default} | {"FEAST_FS_YAML_FILE_PATH"}
    assert {"WAREHOUSE_PATH", "TRAINING_EXPORT_DIR", "STREAM_DIR"} < places
    environment = Workspace(tmp_path).environment()
    assert [name for name in sorted(places) if str(tmp_path) not in environment.get(name, "")] == []


@needs_oulad
def test_no_row_breaks_the_contract_but_a_registration_without_a_date(built: tuple[Path, str]) -> None:
    out, _ = built
    found = rows(out, "select source_table, reason from quarantine.rejected_rows")
    assert set(found) <= {("raw_customers", "missing_timestamp")}


@needs_oulad
def test_the_held_out_block_is_the_last_presentation_with_students_of_its_own(
    built: tuple[Path, str],
) -> None:
    out, _ = built
    champion = read_champion(out / "models")
    assert not set(OPTIONAL_MODELS) & set(champion.models)
    for model in champion.models.values():
        blocks = model.held_out["blocks"]
        assert blocks["fit"]["last_snapshot"] < "2013-09-30" < blocks["choose"]["first_snapshot"]
        assert blocks["choose"]["last_snapshot"] < "2014-09-30" < blocks["report"]["first_snapshot"]
    assert str(champion.trained_until) < "2014-09-30"
    risk = champion.models["churn_risk_30d"].held_out
    assert risk["everyone"]["auc"] > 0.7
    assert risk["everyone"]["auc"] > risk["baseline"]["everyone"]["auc"]
    split = pd.read_csv(out / "split.csv")
    assert set(split[split["block"] == "report"]["customer_id"].str[-5:]) == {"2014J"}


@needs_oulad
def test_the_report_is_right_on_real_data(built: tuple[Path, str]) -> None:
    out, _ = built
    text = (out / "report" / "report.md").read_text()
    verified, released = re.search(r"(\d+) of (\d+) released figures came out equal", text).groups()
    assert verified == released
    assert int(released) > 100
    assert "The reference describes another marketplace" in text
    assert "0 broken" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert "first_session_success: " not in text, "a model that the release does not have"
    html = (out / "report" / "report.html").read_text()
    assert html.count("<svg") == len(list((out / "report").glob("*.svg"))) == text.count(".svg)")


@needs_oulad
def test_predictions_make_sense(built: tuple[Path, str]) -> None:
    out, _ = built
    assert rows(out, "select count(first_session_success) from predictions.customer_predictions") == [(0,)]
    tiers = dict(
        rows(
            out,
            "select health_tier, average_churn_risk_30d from marts.health_tier_summary where customers > 0",
        )
    )
    assert len(tiers) >= 3, "nearly everyone in one tier"
    order = [tiers[name] for name in ("thriving", "healthy", "at_risk", "critical") if name in tiers]
    assert order == sorted(order)
    # Nothing from after the day that the example takes for today.
    today = rows(out, "select max(feature_timestamp) from features.customer_features")[0][0]
    assert (
        rows(out, "select max(scheduled_at) from staging.stg_sessions where status = 'completed'")[0][0]
        < today
    )


@needs_oulad
def test_withdrawal_is_compared_with_the_predictions(built: tuple[Path, str]) -> None:
    out, _ = built
    found = json.loads((out / "withdrawal.json").read_text())
    everyone = found["populations"]["everyone"]
    assert everyone["rows"] == sum(group["rows"] for group in everyone["groups"])
    assert 0 < everyone["students_who_withdraw"] < everyone["students"]
    assert 0 < everyone["auc"] < 1
    assert everyone["auc_range"][0] <= everyone["auc"] <= everyone["auc_range"][1]
    assert f"{everyone['rows']:,}" in (out / "withdrawal.md").read_text()
    # By hand: student Mondays and withdrawals of the last term.
    registrations = pd.read_parquet(next(OULAD.glob("student_registration.parquet")))
    registrations["customer_id"] = [customer_of(row) for row in registrations.itertuples()]
    left = registrations.set_index("customer_id")["date_unregistration"].to_dict()
    start = start_of("2014J")
    counted = withdrawn = 0
    for customer, moment in rows(
        out,
        "select customer_id, feature_timestamp from predictions.customer_predictions "
        "where customer_id like '%-2014J' and isodow(feature_timestamp) = 1",
    ):
        day = (moment - start).days
        gone = left[customer]
        if day < 0 or day + 30 > 269 or (not pd.isna(gone) and gone < day):
            continue
        counted += 1
        withdrawn += not pd.isna(gone) and gone < day + 30
    assert everyone["rows"] == counted
    assert everyone["share_withdrawing"] == pytest.approx(withdrawn / counted)
