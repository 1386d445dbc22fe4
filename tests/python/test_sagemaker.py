"""Script mode: the container's folders and variables in, a release out that this project's scoring reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from datetime import datetime
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import AS_OF, contents, export_of, made_up_columns, warehouse_with_segments, written
from packaging.requirements import Requirement
from test_training import CATALOG, CATEGORICAL, ROOT, SPEC, retrieve_from, settings_in

from scoring.release import MODEL_NAMES, ReleaseError, read_champion, set_champion, write_release
from training.adoption import read_candidates
from training.errors import TrainingError
from training.export import Export
from training.fit import learn
from training.records import MANIFEST, SPLITS, examples_of, read_split
from training.run import adopt
from training.sagemaker import Container, ContainerError, hyperparameters_of, main
from training.split import CHOOSE, FIT, REPORT, customer_groups, customer_hashes

# When an export of that day is made, weeks are left in which its models can be judged.
EARLIER = datetime(2025, 9, 29)
REQUIREMENTS = ROOT / "training" / "requirements-sagemaker.txt"
# What the documentation tells to copy into the container.
SOURCES = ("training", "scoring", "feature_repo", "models/features")


@pytest.fixture(scope="module")
def warehouse():
    with warehouse_with_segments(made_up_columns(700)) as connection:
        yield connection


@pytest.fixture(scope="module")
def export(warehouse) -> Export:
    return export_of(warehouse, as_of=EARLIER)


@pytest.fixture(scope="module")
def folder(export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exports") / "export"
    written(export, place)
    return place


def laid_out(base: Path, folder: Path, *files: str) -> dict[str, str]:
    """/opt/ml as the containers lay it out, below `base`; returns the variables that they set.

    `files` are the names in the channels, {split} for the channel's own; all of the export by default.
    """
    environment = {
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DIR": str(base / "output"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_INPUT_CONFIG_DIR": str(base / "input" / "config"),
        "SM_NUM_CPUS": "1",
    }
    for directory in ("model", "output/data", "input/config"):
        (base / directory).mkdir(parents=True)
    for split in SPLITS:
        channel = base / "input" / "data" / split
        channel.mkdir(parents=True)
        for name in [file.format(split=split) for file in files] or contents(folder):
            shutil.copy(folder / name, channel / name)
        environment[f"SM_CHANNEL_{split.upper()}"] = str(channel)
    return environment


@pytest.fixture
def base(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container's folders, with the variables set in this process."""
    for name in [name for name in os.environ if name.startswith("SM_")]:
        monkeypatch.delenv(name)
    for name, value in laid_out(tmp_path / "ml", folder).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "ml"


def blocked(place: Path) -> Path:
    """A folder for PYTHONPATH that hides every package that the container would not have installed."""
    wanted = {Requirement(line).name for line in requirements()}
    installed: set[str] = set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        installed.add(name)
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            plain = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if plain and re.sub(r"[-_.]+", "-", requirement.name).lower() not in installed:
                wanted.add(requirement.name)
    hidden = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & installed
    )
    assert {"feast", "mlflow", "pandas", "boto3", "dbt"} <= set(hidden)
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        f"""
import sys
HIDDEN = {set(hidden)!r}
class Finder:
    def find_spec(self, name, path=None, target=None):
        # The code under test, which an editable installation puts there too, comes from its own folder.
        if name.partition(".")[0] in HIDDEN - {{"feature_repo", "scoring", "training"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Finder())
"""
    )
    return place


def requirements() -> list[str]:
    lines = REQUIREMENTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def job(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The script as a container runs it: from a copy of the sources, with its requirements alone."""
    base = tmp_path_factory.mktemp("job")
    code = base / "code"
    for source in SOURCES:
        shutil.copytree(ROOT / source, code / source, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "PYTHONPATH": str(blocked(base / "hidden")),
        "SM_HPS": json.dumps({"num_leaves": 5, "seed": 3, "sagemaker_program": "training/sagemaker.py"}),
        **laid_out(base / "ml", folder),
    }
    run = subprocess.run(
        [sys.executable, "training/sagemaker.py", "--num-leaves", "6", "--sagemaker_region", "eu-west-1"],
        cwd=code,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return base / "ml", run


def customers_with_label(records: dict[str, pa.Table]) -> dict[str, set[str]]:
    """The customers whose record has the label of a model and is of its population, by the model's name."""
    rows = [row for table in records.values() for row in table.to_pylist()]
    return {
        name: {
            row["customer_id"]
            for row in rows
            if row[spec.label] is not None
            and not (spec.only_before_first_session and row["total_sessions_lifetime"])
        }
        for name, spec in SPEC.items()
    }


def customers_of_the_report_group(records: dict[str, pa.Table]) -> set[str]:
    customers = [name for table in records.values() for name in table["customer_id"].to_pylist()]
    groups = customer_groups(customer_hashes(customers))
    return {name for name, group in zip(customers, groups, strict=True) if group == REPORT}


# ----------------------------------------------------------------------------------------------------------
# A job
# ----------------------------------------------------------------------------------------------------------


def test_a_job_leaves_the_release_that_the_same_training_makes_here(job, folder: Path) -> None:
    base, run = job
    assert run.returncode == 0, run.stderr
    assert not (base / "output" / "failure").exists()
    release = read_champion(base / "model")
    assert tuple(release.models) == MODEL_NAMES and release.model_version == "v1"
    assert release.data_as_of == EARLIER and release.trained_until < EARLIER
    records = {split: read_split(folder, split, CATALOG)[0] for split in SPLITS}
    examples = examples_of(records, CATALOG)
    features = np.column_stack([records["test"][name].to_numpy() for name in CATALOG.names]).astype(float)
    predictions = release.predict(features, CATALOG.names)
    from training.fit import Tuning

    for name in ("churn_risk_30d", "session_velocity"):
        expected = learn(
            SPEC[name], examples[name], CATEGORICAL, 3, "v1", 1, Tuning(parameters={"num_leaves": 6})
        ).model
        assert release.models[name].booster_text == expected.booster_text
        own = features[:, [CATALOG.names.index(feature) for feature in expected.features]]
        assert np.array_equal(predictions[name], expected.predict(own))
    held_out = {*records["test"]["customer_id"].to_pylist(), *customers_of_the_report_group(records)}
    learned = {name for known in customers_with_label(records).values() for name in known} - held_out
    assert release.training_rows == len(learned)


def test_figures_are_written_and_printed(job) -> None:
    base, run = job
    figures = json.loads((base / "output" / "data" / "metrics.json").read_text())
    printed = dict(re.findall(r"^(\S+)=([-+0-9.e]+);$", run.stdout, re.MULTILINE))
    assert printed.keys() == figures.keys()
    for name, value in figures.items():
        assert float(printed[name]) == pytest.approx(value, abs=1e-6)
    release = read_champion(base / "model")
    auc = release.models["churn_risk_30d"].held_out["not_yet_lapsed"]["auc"]
    assert figures["churn_risk_30d.not_yet_lapsed.auc"] == auc > 0.6
    # The index of today is no feature, so its baseline cannot be told.
    assert release.models["health_score"].held_out["baseline"] is None
    assert release.models["churn_risk_30d"].held_out["baseline"]["everyone"]["auc"] > 0.5
    report = json.loads((base / "output" / "data" / "report.json").read_text())
    assert report["models"]["churn_risk_30d"]["fit"]["parameters"]["num_leaves"] == 6


def test_the_documented_expressions_find_the_figures(job) -> None:
    base, run = job
    page = (ROOT / "docs" / "exports.md").read_text()
    definitions = re.findall(r'"Name": "([^"]+)",\s+"Regex": r"([^"]+)"', page)
    assert len(definitions) >= 4
    figures = json.loads((base / "output" / "data" / "metrics.json").read_text())
    for name, expression in definitions:
        assert [float(found) for found in re.findall(expression, run.stdout)] == [
            pytest.approx(figures[name], abs=1e-6)
        ]


def test_the_requirements_are_those_of_the_lock() -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    listed = dict(line.split("==") for line in requirements())
    assert listed and listed.items() <= locked.items()


@pytest.mark.parametrize("files", [["{split}.jsonl", MANIFEST], ["{split}.parquet"]])
def test_any_form_of_the_records_gives_the_same_models(
    job, base, folder, tmp_path, monkeypatch, files
) -> None:
    for name, value in laid_out(tmp_path / "other", folder, *files).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "other" / "input" / "config" / "hyperparameters.json").write_text(
        json.dumps({"num-leaves": "6", "seed": "3", "_tuning_objective_metric": '"x"'})
    )
    assert main([]) == 0
    models, others = (read_champion(each / "model").models for each in (job[0], tmp_path / "other"))
    for name in MODEL_NAMES:
        assert models[name].booster_text == others[name].booster_text
        assert models[name].calibration == others[name].calibration


# ----------------------------------------------------------------------------------------------------------
# What is learned from
# ----------------------------------------------------------------------------------------------------------


def test_train_fits_validation_chooses_test_reports_and_held_out_customers_stay_out(export: Export) -> None:
    examples = examples_of(export.records, CATALOG)
    split = {
        row["customer_id"]: row["split"]
        for row in export.entity_rows.select(["customer_id", "split"]).to_pylist()
    }
    for name, own in examples.items():
        assert own.columns == CATALOG.service(SPEC[name].feature_service)
        groups = customer_groups(customer_hashes(own.customer_ids))
        assert not (groups[own.block != REPORT] == REPORT).any()
        for customer, block in zip(own.customer_ids, own.block, strict=True):
            assert {"train": FIT, "validation": CHOOSE, "test": REPORT}[split[customer]] == block
        assert not np.isnan(own.labels).any()
    assert len(examples["churn_risk_30d"]) > len(examples["first_session_success"])
    assert (examples["first_session_success"].column("total_sessions_lifetime") == 0).all()
    # Some customers of the held-out group are in validation, so there was something to leave out.
    validation = customer_groups(customer_hashes(export.records["validation"]["customer_id"].to_pylist()))
    assert (validation == REPORT).any()


def test_each_model_learns_from_every_record_with_its_label_and_from_no_other(export: Export) -> None:
    records = dict(export.records)
    known = customers_with_label(records)
    left_out = customers_of_the_report_group(records) - set(records["test"]["customer_id"].to_pylist())
    for name, own in examples_of(records, CATALOG).items():
        assert set(own.customer_ids) == known[name] - left_out, name
    # Newcomers have some labels and lack others, so the models differ in what they learn from.
    assert known["churn_risk_30d"] < known["churn_risk_14d"] < known["session_velocity"]
    assert known["session_velocity"] < {
        name for each in records.values() for name in each["customer_id"].to_pylist()
    }


def test_a_customer_in_two_splits_is_refused(export: Export) -> None:
    records = {**export.records, "test": export.records["validation"]}
    with pytest.raises(TrainingError, match=r"Customer \S+ is more than once"):
        examples_of(records, CATALOG)


# ----------------------------------------------------------------------------------------------------------
# Variables and hyperparameters
# ----------------------------------------------------------------------------------------------------------


def test_places_come_from_the_variables_and_else_from_the_standard_layout(tmp_path: Path) -> None:
    standard = Container.of({})
    assert standard.model == Path("/opt/ml/model")
    assert standard.output_data == Path("/opt/ml/output/data")
    assert standard.failure == Path("/opt/ml/output/failure")
    assert standard.channels == Path("/opt/ml/input/data")
    assert Container.of({"SAGEMAKER_BASE_DIR": "/x"}).failure == Path("/x/output/failure")
    assert Container.of({"SM_OUTPUT_DATA_DIR": "/y/output/data"}).failure == Path("/y/output/failure")
    assert Container.of({"SM_CHANNEL_TRAIN": str(tmp_path)}).channel("train") == tmp_path
    with pytest.raises(ContainerError, match="no channel validation"):
        Container.of({"SAGEMAKER_BASE_DIR": str(tmp_path)}).channel("validation")
    assert Container.of({}).threads is None and Container.of({"SM_NUM_CPUS": "4"}).threads == 4
    with pytest.raises(ContainerError, match="SM_NUM_CPUS is 'many'"):
        _ = Container.of({"SM_NUM_CPUS": "many"}).threads


def test_hyperparameters_come_as_arguments_as_json_and_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "hyperparameters.json").write_text('{"num_leaves": "31", "learning_rate": "0.1"}')
    environment = {"SM_INPUT_CONFIG_DIR": str(tmp_path)}
    assert Container.of(environment).hyperparameters() == {"num_leaves": 31, "learning_rate": 0.1}
    environment["SM_HPS"] = '{"num_leaves": 15}'
    assert Container.of(environment).hyperparameters() == {"num_leaves": 15}
    assert Container.of({"SM_INPUT_CONFIG_DIR": str(tmp_path / "none")}).hyperparameters() == {}
    for wrong, words in (("[", "SM_HPS is not JSON"), ("[]", "SM_HPS is not a JSON object")):
        with pytest.raises(ContainerError, match=words):
            Container.of({"SM_HPS": wrong}).hyperparameters()

    for arguments in (["--num-leaves", "7"], ["--num_leaves=7"]):
        options = hyperparameters_of(arguments, {"num_leaves": 15, "learning-rate": 0.1})
        assert options.num_leaves == 7 and options.learning_rate == 0.1
        assert options.lambda_l2 is None and options.seed == 20260101
    ignored = ["--sagemaker_region", "x", "--_tuning_objective_metric", "y", "--seed", "4"]
    assert hyperparameters_of(ignored, {"sagemaker_program": "z"}).seed == 4
    with pytest.raises(ContainerError, match=r"no hyperparameter 'leaves'; there are num_leaves, "):
        hyperparameters_of([], {"leaves": 3})
    with pytest.raises(ContainerError, match="invalid int value: 'few'"):
        hyperparameters_of(["--num-leaves", "few"], {})


# ----------------------------------------------------------------------------------------------------------
# Failures
# ----------------------------------------------------------------------------------------------------------


def change_records(base: Path, change) -> None:
    for split in SPLITS:
        channel = base / "input" / "data" / split
        pq.write_table(change(pq.read_table(channel / f"{split}.parquet")), channel / f"{split}.parquet")
        (channel / MANIFEST).unlink()


def nulls_in(name: str):
    def change(table: pa.Table) -> pa.Table:
        nothing = pa.nulls(len(table), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), name, nothing)

    return change


def spoil_manifest(base: Path) -> None:
    path = base / "input" / "data" / "train" / "train.parquet"
    path.write_bytes(path.read_bytes() + b" ")


def leave_json_lines(base: Path) -> None:
    for split in SPLITS:
        (base / "input" / "data" / split / f"{split}.parquet").unlink()
        (base / "input" / "data" / split / MANIFEST).unlink()


def leave_nothing(base: Path) -> None:
    for path in (base / "input" / "data" / "test").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "arguments", "sentence"),
    [
        (None, ["--num-leaves", "1"], "LightGBM does not accept the hyperparameters: .*num_leaves"),
        (None, ["--trees", "1"], "There is no hyperparameter 'trees'"),
        (spoil_manifest, [], r"train\.parquet is not the file that manifest\.json beside it lists"),
        (leave_json_lines, [], "JSON lines do not say until when the data reach"),
        (leave_nothing, [], r"neither test\.parquet nor test\.jsonl in"),
        (
            lambda base: change_records(base, lambda table: table.drop(["grade_level"])),
            [],
            "no column grade_",
        ),
        (lambda base: change_records(base, nulls_in("grade_level")), [], r"lacks grade_level in \d+ of"),
        (
            lambda base: change_records(base, nulls_in("label_churn_risk_30d")),
            [],
            "churn_risk_30d has nothing to learn from: label_churn_risk_30d is null at every snapshot",
        ),
    ],
)
def test_a_failure_is_told_in_one_sentence_where_sagemaker_looks(
    base, capfd, harm, arguments, sentence
) -> None:
    if harm is not None:
        harm(base)
    assert main(arguments) == 1
    told = (base / "output" / "failure").read_text()
    assert re.search(sentence, told) and told.count("\n") == 1 and len(told) < 1024
    errors = capfd.readouterr().err
    assert told.strip() in errors and "Traceback" not in errors
    assert list((base / "model").iterdir()) == []


def test_json_lines_alone_will_do_with_the_data_end(base: Path) -> None:
    leave_json_lines(base)
    assert main(["--data-as-of", "2025-09-29", "--num-boost-round", "5"]) == 0
    release = read_champion(base / "model")
    assert release.data_as_of == release.trained_until == EARLIER
    assert all(len(model.trees.trees) <= 5 for model in release.models.values())


def test_an_error_that_nobody_thought_of_is_told_too(base: Path, capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as where it is not installed
    assert main([]) == 1
    assert (base / "output" / "failure").read_text().startswith("ModuleNotFoundError: ")
    assert "Traceback" in capfd.readouterr().err


# ----------------------------------------------------------------------------------------------------------
# Publishing what was trained there
# ----------------------------------------------------------------------------------------------------------


def test_models_of_a_job_are_judged_and_published_here(job, warehouse, tmp_path: Path) -> None:
    base, _ = job
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(base / "model", arcname=".")
    candidates = read_candidates(archive)
    assert candidates.models == read_candidates(base / "model").models
    # Beside a champion that is better in one of the five.
    champion = read_champion(base / "model")
    spoiled = {name: replace(model, lower=0.0, upper=0.0) for name, model in champion.models.items()}
    spoiled["session_velocity"] = champion.models["session_velocity"]
    settings = settings_in(tmp_path, as_of=AS_OF)
    write_release(replace(champion, models=spoiled), settings.models_dir)
    set_champion(settings.models_dir, "v1")
    worse = {**candidates.models, "session_velocity": spoiled["health_score"]}
    worse["session_velocity"] = replace(candidates.models["session_velocity"], upper=0.0)
    outcome = adopt(
        warehouse,
        retrieve_from(warehouse),
        replace(candidates, models=worse),
        settings,
        lambda message: None,
    )
    assert outcome.champion and outcome.release.model_version == "v2"
    published = read_champion(settings.models_dir)
    assert published.models == outcome.release.models
    for name, model in published.models.items():
        assert model.booster_text == champion.models[name].booster_text
        assert model.origin_version == ("v1" if name == "session_velocity" else "v2")
        report = model.held_out["blocks"]["report"]
        assert report["first_snapshot"] >= f"{champion.trained_until:%Y-%m-%d}" and report["rows"] > 20
        assert model.held_out["everyone"]["rows"] == report["rows"]
    assert published.trained_until == champion.trained_until


def test_weeks_that_the_models_have_seen_do_not_count(job, warehouse, tmp_path: Path) -> None:
    candidates = read_candidates(job[0] / "model")
    late = replace(candidates, trained_until=datetime(2026, 1, 23))
    with pytest.raises(
        TrainingError, match=r"until 2026-01-23, which leaves too few .* --as-of 2025-\d\d-\d\d"
    ):
        adopt(warehouse, retrieve_from(warehouse), late, settings_in(tmp_path), lambda message: None)
    strange = replace(candidates.models["health_score"], features=("a_feature_of_old",))
    old = replace(candidates, models={**candidates.models, "health_score": strange})
    with pytest.raises(TrainingError, match="health_score needs the features a_feature_of_old"):
        adopt(warehouse, retrieve_from(warehouse), old, settings_in(tmp_path), lambda message: None)
    assert not (tmp_path / "models" / "releases").exists()


def test_what_is_no_model_of_a_job_is_named(job, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    for path, words in (
        (tmp_path / "none", "no model directory or archive at"),
        (tmp_path / "text", "text is not an archive of models"),
        (tmp_path, "holds no models: there is no champion.json"),
    ):
        with pytest.raises(TrainingError, match=words) as caught:
            read_candidates(path)
        assert "\n" not in str(caught.value)
    broken = tmp_path / "broken"
    shutil.copytree(job[0] / "model", broken)
    (broken / "releases" / "v1" / "health_score.txt").unlink()
    with pytest.raises(ReleaseError, match=r"health_score\.txt is missing"):
        read_candidates(broken)
    shutil.copytree(job[0] / "model" / "releases", broken / "releases", dirs_exist_ok=True)
    (broken / "releases" / "v1" / "report.json").unlink()
    with pytest.raises(TrainingError, match=r"report\.json does not say how the models were fitted"):
        read_candidates(broken)
