"""The script that SageMaker's containers run (script mode): exported records in, a release of models out.

It reads and writes what the containers lay out: the channels train, validation and test in SM_CHANNEL_*,
hyperparameters as arguments, in SM_HPS or in hyperparameters.json, models to SM_MODEL_DIR, figures to
SM_OUTPUT_DATA_DIR and as lines of standard output, the reason of a failure to <output>/failure. The training
is that of `python -m training` (training/fit.py); nothing of SageMaker is imported. docs/exports.md says how
to launch it and how to publish what it made.
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if not __package__:
    # Started as a file, as the containers do: the packages lie beside this one's folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# What needs more than the standard library is imported in _train, so that a missing package too is a failure
# that is told.
if TYPE_CHECKING:
    from scoring.release import Release
    from training.fit import Learned
    from training.records import Provenance

VERSION = "v1"
_DECISION = {"champion": True, "summary": "trained on an export, beside no other version", "models": {}}

# Hyperparameters that go to LightGBM under their own names; the defaults are those of training/fit.py.
LIGHTGBM_HYPERPARAMETERS: Mapping[str, type] = {
    "num_leaves": int,
    "max_depth": int,
    "min_data_in_leaf": int,
    "learning_rate": float,
    "feature_fraction": float,
    "bagging_fraction": float,
    "bagging_freq": int,
    "lambda_l1": float,
    "lambda_l2": float,
    "max_bin": int,
}


class ContainerError(Exception):
    """The job cannot run as it was launched; the message is one sentence."""


@dataclass(frozen=True)
class Container:
    """Where a SageMaker container has what, by its environment; below SAGEMAKER_BASE_DIR (default /opt/ml)
    where a variable is missing.
    """

    channels: Path
    configuration: Path
    model: Path
    output_data: Path
    failure: Path
    environment: Mapping[str, str]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Container":
        """The container that the variables describe."""

        def place(variable: str, default: Path) -> Path:
            return Path(environment.get(variable) or default)

        base = place("SAGEMAKER_BASE_DIR", Path("/opt/ml"))
        given = environment.get("SM_OUTPUT_DATA_DIR")
        output = place("SM_OUTPUT_DIR", Path(given).parent if given else base / "output")
        return cls(
            channels=base / "input" / "data",
            configuration=place("SM_INPUT_CONFIG_DIR", base / "input" / "config"),
            model=place("SM_MODEL_DIR", base / "model"),
            output_data=place("SM_OUTPUT_DATA_DIR", output / "data"),
            failure=place("SM_OUTPUT_FAILURE", output / "failure"),
            environment=environment,
        )

    def channel(self, name: str) -> Path:
        """The folder of a channel. Raises ContainerError when the job has no such channel."""
        given = self.environment.get(f"SM_CHANNEL_{name.upper()}")
        folder = Path(given) if given else self.channels / name
        if not folder.is_dir():
            raise ContainerError(f"The job has no channel {name}: there is no folder {folder}.")
        return folder

    @property
    def threads(self) -> int | None:
        """SM_NUM_CPUS, or None: one a core. Raises ContainerError when it is no number above 0."""
        given = self.environment.get("SM_NUM_CPUS")
        if not given:
            return None
        if not given.isdecimal() or int(given) < 1:
            raise ContainerError(f"SM_NUM_CPUS is '{given}', and a number above 0 is needed.")
        return int(given)

    def hyperparameters(self) -> dict[str, Any]:
        """SM_HPS, or else hyperparameters.json, whose values are texts of JSON or plain texts.

        Raises ContainerError when it is no JSON object.
        """
        given, source = self.environment.get("SM_HPS"), "SM_HPS"
        if not given:
            path = self.configuration / "hyperparameters.json"
            if not path.exists():
                return {}
            given, source = path.read_text(), str(path)
        try:
            named = json.loads(given)
        except ValueError as error:
            raise ContainerError(f"{source} is not JSON: {error}.") from error
        if not isinstance(named, dict):
            raise ContainerError(f"{source} is not a JSON object of hyperparameters.")
        return {name: _decoded(value) for name, value in named.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and return the exit code, 0 only when the model directory holds a release."""
    container = Container.of(os.environ)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _train(container, given)
    except Exception as error:
        sentence, known = str(error), _is_known(error)
        if not known:
            sentence = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        print(f"Training failed. {sentence}", file=sys.stderr, flush=True)
        container.failure.parent.mkdir(parents=True, exist_ok=True)
        container.failure.write_text(sentence + "\n")
        return 1
    return 0


def hyperparameters_of(arguments: Sequence[str], named: Mapping[str, Any]) -> argparse.Namespace:
    """The hyperparameters from arguments (`--num-leaves 31`, with - or _) and from `named`; arguments win.

    Names of SageMaker's own (sagemaker_… and _…) are passed over. Raises ContainerError for an unknown name
    or a value of the wrong type.
    """
    parser = _parser()
    texts = []
    for name, value in named.items():
        texts += [f"--{name}", str(value)]
    options, unknown = parser.parse_known_args([*texts, *arguments])
    foreign = False
    for text in unknown:
        if text.startswith("--"):
            foreign = text.startswith(("--sagemaker_", "--_"))
        if not foreign:
            known = ", ".join(action.dest for action in parser._actions if action.dest != "help")
            raise ContainerError(f"There is no hyperparameter '{text.lstrip('-')}'; there are {known}.")
    return options


def _train(container: Container, arguments: Sequence[str]) -> None:
    options = hyperparameters_of(arguments, container.hyperparameters())

    import lightgbm

    from feature_repo.catalog import load_catalog
    from scoring.release import set_champion, write_release
    from training.fit import Tuning, learn
    from training.models import SPECS
    from training.records import SPLITS, examples_of, read_split
    from training.report import mlflow_metrics, report_json

    catalog = load_catalog()
    records, provenances = {}, set()
    for split in SPLITS:
        records[split], provenance = read_split(container.channel(split), split, catalog)
        provenances.add(provenance)
        print(f"{split}: {len(records[split]):,} records", flush=True)
    provenance = _provenance(provenances, options.data_as_of)
    examples = examples_of(records, catalog)
    parameters = {name: getattr(options, name) for name in LIGHTGBM_HYPERPARAMETERS}
    tuning = Tuning(
        parameters={name: value for name, value in parameters.items() if value is not None},
        **{
            field: value
            for field, value in (
                ("most_trees", options.num_boost_round),
                ("stop_after", options.early_stopping_rounds),
            )
            if value is not None
        },
    )
    categorical = [feature.name for feature in catalog.features if feature.categorical]
    learned = {}
    for spec in SPECS:
        try:
            learned[spec.name] = learn(
                spec, examples[spec.name], categorical, options.seed, VERSION, container.threads, tuning
            )
        except lightgbm.basic.LightGBMError as error:
            reason = str(error).partition(" at /")[0].strip()  # without the place in LightGBM's sources
            raise ContainerError(f"LightGBM does not accept the hyperparameters: {reason}.") from error
        print(f"{spec.name}: {learned[spec.name].log['trees']} trees", flush=True)
    release = _release(learned, examples, provenance)
    held_out = {name: model.held_out for name, model in release.models.items()}
    report = report_json(release, {name: each.log for name, each in learned.items()}, held_out)
    figures = mlflow_metrics(held_out)
    container.output_data.mkdir(parents=True, exist_ok=True)
    _write(container.output_data / "metrics.json", figures)
    _write(container.output_data / "report.json", report)
    write_release(release, container.model, {"report.json": _json(report)})
    set_champion(container.model, VERSION)
    for name, value in figures.items():
        print(f"{name}={value:.6f};", flush=True)


def _release(
    learned: "Mapping[str, Learned]", examples: Mapping[str, Any], provenance: "Provenance"
) -> "Release":
    from scoring.release import Release
    from training.evaluation import held_out_report, predict_in_order
    from training.models import SPECS
    from training.split import REPORT

    longer = learned["churn_risk_30d"].model
    models = {}
    for spec in SPECS:
        model, own = learned[spec.name].model, examples[spec.name]
        predictions = predict_in_order(model, own.of(REPORT), longer)
        models[spec.name] = replace(model, held_out=held_out_report(spec, None, own, predictions, None))
    customers = [own.customer_ids[own.block != REPORT] for own in examples.values()]
    return Release(
        model_version=VERSION,
        trained_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
        data_as_of=provenance.data_as_of,
        trained_until=provenance.labels_until,
        training_rows=len(set().union(*customers)),
        models=models,
        decision=_DECISION,
    )


def _provenance(found: "set[Provenance | None]", data_as_of: datetime | None) -> "Provenance":
    from training.records import Provenance

    found = found - {None}
    if len(found) > 1:
        raise ContainerError("The channels hold files of different exports: give all three the same one.")
    if found:
        return found.pop()
    if data_as_of is None:
        raise ContainerError(
            "JSON lines do not say until when the data reach: put the export's manifest.json beside them, or "
            "use its Parquet files, or give the hyperparameter data-as-of."
        )
    return Provenance(data_as_of=data_as_of, labels_until=data_as_of)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ContainerError(f"The hyperparameters are wrong: {message}.")


def _parser() -> argparse.ArgumentParser:
    from training import SEED

    parser = _Parser(
        prog="python training/sagemaker.py",
        description=(
            "Train the five models on exported records in a SageMaker container (script mode): "
            "SM_CHANNEL_TRAIN, SM_CHANNEL_VALIDATION and SM_CHANNEL_TEST hold the records, SM_MODEL_DIR gets "
            "the models."
        ),
        epilog="Hyperparameters of trees hold for all five models. docs/exports.md says how to launch it.",
        allow_abbrev=False,
    )

    def add(name: str, kind: Any, described: str, default: Any = None) -> None:
        spelled = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        parser.add_argument(*spelled, dest=name, type=kind, default=default, help=described)

    for name, kind in LIGHTGBM_HYPERPARAMETERS.items():
        add(name, kind, f"LightGBM's {name} (default: the model's own)")
    add("num_boost_round", int, "most trees of a model")
    add("early_stopping_rounds", int, "stop after so many trees without improvement on validation")
    add("seed", int, f"of the models' random choices (default: {SEED})", SEED)
    add("data_as_of", datetime.fromisoformat, "data end of records without a manifest, such as 2026-07-01")
    return parser


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _is_known(error: Exception) -> bool:
    # By name: the packages of the others may be what is missing.
    names = {"ContainerError", "TrainingError", "ReleaseError", "CatalogError"}
    return bool(names & {kind.__name__ for kind in type(error).__mro__})


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _write(path: Path, content: Any) -> None:
    path.write_text(_json(content))


if __name__ == "__main__":
    sys.exit(main())
