"""Open, apply and materialize the feature store."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from feast import FeatureStore, FeatureView
from feast.project import Project
from feast.repo_config import load_repo_config
from feast.repo_contents import RepoContents
from feast.repo_operations import apply_total_with_repo_instance
from feast.utils import get_default_yaml_file_path

from feature_repo.build import (
    NEVER_MATERIALIZED,
    TTL,
    Definitions,
    build_definitions,
    exported_relation,
    served_relations,
)
from feature_repo.catalog import WIDE_RELATION, load_catalog
from feature_repo.online import OnlineRows, in_utc, online_rows
from feature_repo.paths import feature_export_dir, feature_repo_dir

log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The feature store is not in the state that a command needs; the message says what to do."""


@dataclass(frozen=True)
class Materialization:
    """What a materialization did."""

    as_of: datetime
    customers: int
    """Customers with a snapshot in force at ``as_of``: those that the online store now serves."""
    withdrawn: int
    """Customers served before whose last snapshot is no longer in force: their rows are deleted."""


def configuration_file() -> Path:
    """The Feast configuration: ``FEAST_FS_YAML_FILE_PATH``, default ``feature_repo/feature_store.yaml``."""
    return get_default_yaml_file_path(feature_repo_dir()).resolve()


def open_store(configuration: Path | None = None) -> FeatureStore:
    """Open the feature store of ``configuration`` (default: ``configuration_file()``)."""
    ensure_state_directory(configuration)
    with _quiet_configuration():
        store = FeatureStore(
            repo_path=str(feature_repo_dir()), fs_yaml_file=configuration or configuration_file()
        )
        # Feast reads this part of the configuration when it is first asked for; ask here, where it is quiet.
        _ = store.config.registry
    return store


def ensure_state_directory(configuration: Path | None = None) -> None:
    """Create the directories of the registry and of the SQLite online store, with their parents.

    Raises ``StoreError`` when the configuration cannot be read.
    """
    file = configuration or configuration_file()
    with _quiet_configuration():
        try:
            config = load_repo_config(feature_repo_dir(), file)
            paths = [config.registry.path]
        except Exception as error:  # what Feast raises depends on what is wrong: OSError, TypeError, its own
            reason = " ".join(str(error).split())
            raise StoreError(f"The Feast configuration {file} cannot be read: {reason}.") from error
    if config.online_store.type == "sqlite":
        paths.append(config.online_store.path)
    for path in paths:
        if "://" not in path:
            (feature_repo_dir() / path).resolve().parent.mkdir(parents=True, exist_ok=True)


def apply(store: FeatureStore, definitions: Definitions | None = None) -> str:
    """Register the definitions as ``feast apply`` does; returns Feast's account of the changes."""
    definitions = definitions or build_definitions()
    contents = RepoContents(
        projects=[Project(name=store.project, description=store.config.project_description or "")],
        data_sources=list(definitions.sources),
        feature_views=list(definitions.views),
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        entities=[definitions.entity],
        feature_services=list(definitions.services),
        permissions=[],
    )
    account = io.StringIO()
    with contextlib.redirect_stdout(account):
        apply_total_with_repo_instance(
            store, store.project, store.registry, contents, skip_source_validation=True
        )
    return account.getvalue()


def registered_views(store: FeatureStore) -> list[FeatureView]:
    """The registered feature views: the families in the order of the catalog, then the predictions.

    Raises ``StoreError`` when one is missing.
    """
    views = {view.name: view for view in store.list_feature_views()}
    relations = served_relations()
    missing = [relation for relation in relations if relation not in views]
    if missing:
        raise StoreError(
            f"Feast does not know {', '.join(missing)}; run `python -m feature_repo apply` first."
        )
    return [views[relation] for relation in relations]


def check_sources(store: FeatureStore, service: str | None = None) -> None:
    """Raise ``StoreError`` unless the registered views (of a service, where one is given) read the exports in
    ``feature_export_dir()``."""
    views = registered_views(store)
    if service is not None:
        needed = {each.name for each in store.get_feature_service(service).feature_view_projections}
        views = [view for view in views if view.name in needed]
    for view in views:
        relation = exported_relation(view.name)
        expected = feature_export_dir() / relation
        if Path(view.batch_source.path) != expected:
            raise StoreError(
                f"{view.name} is registered to read {view.batch_source.path}, but the exports are in "
                f"{expected}; run `python -m feature_repo apply`."
            )
        _check_exported(relation)


def progress_mark(view: FeatureView) -> datetime | None:
    """The time up to which a registered view was materialized, None when it never was."""
    mark = view.most_recent_end_time
    if mark is None:
        return None
    mark = in_utc(mark)
    return None if mark == NEVER_MATERIALIZED else mark


def newest_snapshot() -> datetime:
    """The newest ``feature_timestamp`` in the exports, in UTC.

    Raises ``StoreError`` when there is no export.
    """
    _check_exported(WIDE_RELATION)
    with duckdb.connect() as connection:
        (time,) = connection.execute(
            f"select max({load_catalog().timestamp}) from read_parquet($files)",
            {"files": _export_files(WIDE_RELATION)},
        ).fetchone()
    if time is None:
        raise StoreError(f"The exports in {feature_export_dir()} have no rows; run `dbt build` first.")
    return time.replace(tzinfo=UTC)


def materialize(
    store: FeatureStore,
    as_of: datetime | None = None,
    on_view: Callable[[str], None] = lambda name: None,
) -> Materialization:
    """Make the online store serve the snapshots in force at ``as_of`` (default: the newest snapshot).

    Every customer with a snapshot in [as_of - 7 days, as_of] is written, so the result does not depend on
    what was materialized before and a repetition, also after a kill, ends the same. The rows of customers who
    have left scope since are deleted: Feast itself would serve their last values for ever. ``on_view`` is
    called with the name of each finished view. Raises ``StoreError`` when the online store is already further
    than ``as_of``.
    """
    check_sources(store)
    as_of = in_utc(as_of or newest_snapshot())
    views = registered_views(store)
    marks = [mark for mark in map(progress_mark, views) if mark is not None]
    if marks and max(marks) > as_of:
        raise StoreError(
            f"The online store already serves {max(marks):%Y-%m-%d %H:%M}; going back to "
            f"{as_of:%Y-%m-%d %H:%M} would serve old values. To start afresh, run `feast teardown` and "
            "`python -m feature_repo apply`."
        )
    for view in views:
        with _silent():
            store.materialize(as_of - TTL, as_of, feature_views=[view.name])
        on_view(view.name)
    # Last, so that nobody is missing while the views are written after a pause of more than the ttl.
    withdrawn = len(_online_rows(store).delete_expired(views, as_of - TTL))
    customers = _customers_in_force(as_of)
    log.info("materialized %d customers as of %s, withdrew %d", customers, as_of, withdrawn)
    return Materialization(as_of, customers, withdrawn)


def forget_online(store: FeatureStore, customer: str) -> int:
    """Delete all that the online store holds of the customer; returns of how many views it held a row."""
    views = store.list_feature_views()  # none, where nothing was ever applied
    return _online_rows(store).delete(views, [customer]) if views else 0


def _online_rows(store: FeatureStore) -> OnlineRows:
    rows = online_rows(store.config, store.provider.online_store)
    if rows is None:
        raise StoreError(
            f"Rows can be deleted from SQLite and Redis only, not from {store.config.online_store.type}: "
            "customers who left would be served for ever."
        )
    return rows


def _export_files(relation: str) -> str:
    return str(feature_export_dir() / relation / "*.parquet")


def _check_exported(relation: str) -> None:
    directory = feature_export_dir() / relation
    if not any(directory.glob("*.parquet")):
        raise StoreError(f"There is no Parquet file in {directory}; run `dbt build` first.")


def _customers_in_force(as_of: datetime) -> int:
    """Number of customers with a snapshot of their features in force at ``as_of``."""
    catalog = load_catalog()
    with duckdb.connect() as connection:
        return connection.execute(
            f"""
            select count(distinct {catalog.entity_key}) from read_parquet($files)
            where {catalog.timestamp} between $oldest and $as_of
            """,
            {
                "files": _export_files(WIDE_RELATION),
                "oldest": (as_of - TTL).replace(tzinfo=None),
                "as_of": as_of.replace(tzinfo=None),
            },
        ).fetchone()[0]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    # Feast reports with print() and tqdm; the callers of these functions report in their own way.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _quiet_configuration() -> Iterator[None]:
    # Feast warns that serve_features_while_materializing "typically has no effect" on a registry file. It
    # has: a server that reloads the file while a view is being materialized would refuse its look-ups
    # (tests/python/test_feast.py shows it), so the setting stays and the warning goes.
    logger = logging.getLogger("feast.repo_config")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
