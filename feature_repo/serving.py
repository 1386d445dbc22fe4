"""Look-ups by id out of the online store, for a server that runs for weeks.

Every look-up is Feast's own ``get_online_features``. What this module adds is what a server needs around it:
the registry is held as objects, because Feast makes them out of its protobuf for every request (4 ms for one
service of 59 features); a changed registry is noticed and read beside the look-ups, not by one of them; and
everything that cannot be answered is an exception that says why in one sentence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView
from feast.base_feature_view import BaseFeatureView
from feast.errors import (
    EntityNotFoundException,
    FeatureServiceNotFoundException,
    FeatureViewNotFoundException,
)
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from feature_repo.catalog import load_catalog
from feature_repo.paths import feature_repo_dir
from feature_repo.response import Document, response_document
from feature_repo.store import open_store, progress_mark

REFRESH_SECONDS = 1.0
"""How often a server looks whether the registry file has changed. A change is taken over once two looks have
found the same, so a new `apply` is served after one to two seconds."""
REMOTE_REFRESH_LOOKS = 60
"""A registry that is not a file is read anew at every so-manieth look."""
REDIS_SECONDS = 2.0
"""How long Redis may take to connect or to answer, at each try."""
REDIS_RETRIES = 1
NAMED = 3
"""How many unknown names a sentence lists."""

log = logging.getLogger(__name__)


class LookupRefused(Exception):  # noqa: N818 - the subclasses say what is wrong
    """A look-up that cannot be answered; the message is one sentence for who asked."""


class UnknownFeatures(LookupRefused):
    """The feature service, feature view or feature is not registered."""


class AmbiguousFeatures(LookupRefused):
    """Two features would have the same name in the answer."""


class UnknownCustomers(LookupRefused):
    """The online store serves nothing for these customers."""

    def __init__(self, sentence: str, customers: list[str]) -> None:
        super().__init__(sentence)
        self.customers = customers


class StoreUnavailable(LookupRefused):
    """The feature store cannot answer at the moment: not applied, not materialized, or not reachable."""


@dataclass(frozen=True)
class RegistrySnapshot:
    """Feast's registry at one moment, as far as a look-up reads it; Feast takes it in a registry's place."""

    entities: tuple[Entity, ...]
    views: Mapping[str, BaseFeatureView]
    services: Mapping[str, FeatureService]
    serve_features_while_materializing: bool
    enable_online_versioning: bool
    cached_registry_proto_created: object | None = field(default_factory=object)
    """Feast keeps what it resolved as long as this stays equal, and keeps nothing where it is None."""

    @classmethod
    def of(cls, store: FeatureStore) -> RegistrySnapshot:
        """The registry of a store that has just been opened."""
        registry = store.registry
        return cls(
            entities=tuple(registry.list_entities(store.project, allow_cache=True)),
            views={
                view.name: view for view in registry.list_all_feature_views(store.project, allow_cache=True)
            },
            services={
                service.name: service
                for service in registry.list_feature_services(store.project, allow_cache=True)
            },
            serve_features_while_materializing=registry.serve_features_while_materializing,
            enable_online_versioning=registry.enable_online_versioning,
        )

    def unkept(self) -> RegistrySnapshot:
        """The same for a list of features, which Feast shall not remember: there are too many of them."""
        return RegistrySnapshot(
            self.entities,
            self.views,
            self.services,
            self.serve_features_while_materializing,
            self.enable_online_versioning,
            cached_registry_proto_created=None,
        )

    def is_cache_valid(self) -> bool:
        """A snapshot never expires; another one takes its place."""
        return True

    def list_entities(self, project: str, allow_cache: bool = False) -> list[Entity]:
        """All entities."""
        return list(self.entities)

    def get_entity(self, name: str, project: str, allow_cache: bool = False) -> Entity:
        """The entity of that name. Raises Feast's exception when there is none."""
        for entity in self.entities:
            if entity.name == name:
                return entity
        raise EntityNotFoundException(name, project)

    def get_any_feature_view(self, name: str, project: str, allow_cache: bool = False) -> BaseFeatureView:
        """The feature view of that name, of any kind. Raises Feast's exception when there is none."""
        if name not in self.views:
            raise FeatureViewNotFoundException(name, project)
        return self.views[name]

    def get_feature_service(self, name: str, project: str, allow_cache: bool = False) -> FeatureService:
        """The feature service of that name. Raises Feast's exception when there is none."""
        if name not in self.services:
            raise FeatureServiceNotFoundException(name, project)
        return self.services[name]


@dataclass(frozen=True)
class _Served:
    """A store, and its registry at the moment when it was opened."""

    store: FeatureStore
    registry: RegistrySnapshot
    mark: object
    key: str
    """The join key: the name by which a request gives its customers."""
    never_materialized: frozenset[str]
    """Feature views that were never materialized."""


class OnlineLookup:
    """Answers look-ups out of the feature store of a configuration, from any number of threads."""

    def __init__(self, configuration: Path | None = None) -> None:
        self._configuration = configuration
        self._mark_seen: object = None
        self._looks = 0
        self._served = self._open()

    @property
    def project(self) -> str:
        """The name of Feast's project."""
        return self._served.store.project

    @property
    def key(self) -> str:
        """The join key: the name by which a request gives its customers."""
        return self._served.key

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the registered feature services."""
        return tuple(self._served.registry.services)

    @property
    def features(self) -> tuple[str, ...]:
        """All registered features as ``view:feature``."""
        return tuple(_references(self._served.registry.views.values()))

    def look_up(
        self,
        customers: Sequence[str],
        *,
        feature_service: str | None = None,
        features: Sequence[str] = (),
        full_feature_names: bool = False,
        view_versions: bool = False,
        unknown_as_null: bool = False,
    ) -> Document:
        """The answer for these customers in the JSON form of Feast's feature server, in their order.

        Asked for is a feature service or a list of ``view:feature``. With ``unknown_as_null`` a customer who
        is not served has nulls with the status NOT_FOUND, as from Feast's own server. Raises
        ``UnknownFeatures``, ``AmbiguousFeatures``, ``UnknownCustomers`` or ``StoreUnavailable``.
        """
        served = self._served
        registry = served.registry
        if not registry.views:
            raise StoreUnavailable(
                f"Nothing is registered in the Feast project {served.store.project} yet; "
                "run `python -m feature_repo apply`."
            )
        asked: FeatureService | list[str]
        if feature_service is not None:
            if feature_service not in registry.services:
                raise UnknownFeatures(
                    f"There is no feature service {shown(feature_service)}; there are "
                    f"{', '.join(registry.services) or 'none'}."
                )
            asked = registry.services[feature_service]
            views = [projection.name for projection in asked.feature_view_projections]
        else:
            _check_features(registry, features, full_feature_names)
            asked, registry = list(features), registry.unkept()
            views = list(dict.fromkeys(reference.partition(":")[0] for reference in features))
        proto = _read(served, registry, asked, customers, full_feature_names, view_versions)
        document = response_document(proto)
        self._check_materialized(served, views, document, full_feature_names)
        if not unknown_as_null:
            self._check_customers(served, views, customers, document)
        return document

    def refresh(self) -> bool:
        """Take over a changed registry; returns whether there was one.

        A file that is still being written is left alone until two calls have found the same. When the new
        registry cannot be read, the old one goes on being served.
        """
        mark = self._registry_mark()
        settled, self._mark_seen = mark == self._mark_seen, mark
        if mark == self._served.mark or not settled:
            return False
        try:
            self._served = self._open()
        except Exception as error:  # whatever a registry raises, look-ups go on
            log.error("The changed registry cannot be read (%s: %s).", type(error).__name__, error)
            return False
        log.info("took over a changed registry")
        return True

    @contextmanager
    def refreshing(self, seconds: float = REFRESH_SECONDS) -> Iterator[None]:
        """Refresh in a thread, as long as the block runs."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(seconds):
                self.refresh()

        thread = threading.Thread(target=run, name="registry-refresh", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _open(self) -> _Served:
        # Before the file is read: a change in between is then read once more instead of being missed. A store
        # of its own for each registry, so that an online store in a new file is noticed as well.
        mark = self._registry_mark()
        store = open_store(self._configuration)
        _limit_waiting(store)
        registry = RegistrySnapshot.of(store)
        never = {
            name
            for name, view in registry.views.items()
            if isinstance(view, FeatureView) and progress_mark(view) is None
        }
        key = load_catalog().entity_key
        served = _Served(store, registry, mark or self._registry_mark(store), key, frozenset(never))
        if first := next(_references(registry.views.values()), None):
            with suppress(StoreUnavailable):
                # Connects, and imports what Feast imports at the first look-up; no request shall wait for it.
                _read(served, registry.unkept(), [first], [""], True, False)
        return served

    def _registry_mark(self, store: FeatureStore | None = None) -> object:
        store = store or (self._served.store if hasattr(self, "_served") else None)
        if store is None:
            return None
        path = store.config.registry.path
        if "://" in path:
            self._looks += 1
            return ("look", self._looks // REMOTE_REFRESH_LOOKS)
        try:
            status = (feature_repo_dir() / path).stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def _check_materialized(
        self, served: _Served, views: Sequence[str], document: Document, full_feature_names: bool
    ) -> None:
        """Raise ``StoreUnavailable`` where a view that was never materialized has nothing for anybody."""
        never = served.never_materialized.intersection(views)
        if not never:
            return
        found: set[str] = set()
        for name, result in zip(document["metadata"]["feature_names"], document["results"], strict=True):
            # Not by the status: Redis has PRESENT for what it does not have.
            if any(value is not None for value in result["values"]):
                found.add(name)
        for view in sorted(never):
            names = [feature.name for feature in served.registry.views[view].features]
            if not found.intersection(f"{view}__{name}" if full_feature_names else name for name in names):
                raise StoreUnavailable(
                    f"{view} has not been materialized yet; run `python -m feature_repo materialize`."
                )

    def _check_customers(
        self, served: _Served, views: Sequence[str], customers: Sequence[str], document: Document
    ) -> None:
        """Raise ``UnknownCustomers`` naming those for whom the views hold no value at all."""
        empty = _without_values(range(len(customers)), document, served.key)
        if not empty:
            return
        # A feature may be null for a customer who is served. Who is not has no value in the whole view.
        suspects = list(dict.fromkeys(customers[index] for index in empty))
        whole = list(_references([served.registry.views[view] for view in views]))
        proto = _read(served, served.registry.unkept(), whole, suspects, True, False)
        nothing = _without_values(range(len(suspects)), response_document(proto), served.key)
        unknown = [suspects[index] for index in nothing]
        if unknown:
            named = ", ".join(map(shown, unknown[:NAMED]))
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            raise UnknownCustomers(f"The online store serves no customer {named}{more}.", unknown)


def _limit_waiting(store: FeatureStore) -> None:
    """Let a Redis that does not answer hold a thread for a moment: the client's default is to try for many
    seconds and, where the network swallows what is sent, to wait for ever. What the connection string says
    counts.
    """
    config, online = store.config.online_store, store.provider.online_store
    if isinstance(online, RedisOnlineStore) and config.redis_type != RedisType.redis_cluster:
        client = online._get_client(config)
        client.set_retry(Retry(ExponentialBackoff(cap=0.2, base=0.02), REDIS_RETRIES))
        settings = client.get_connection_kwargs()
        for name in ("socket_connect_timeout", "socket_timeout"):
            if f"{name}=" not in config.connection_string:
                settings[name] = REDIS_SECONDS


def shown(name: str) -> str:
    """A name out of a request, quoted, escaped and cut, to stand in a sentence."""
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def _references(views: Iterable[BaseFeatureView]) -> Iterator[str]:
    for view in views:
        for feature in view.features:
            yield f"{view.name}:{feature.name}"


def _check_features(registry: RegistrySnapshot, features: Sequence[str], full_feature_names: bool) -> None:
    names: dict[str, str] = {}
    for reference in features:
        view, colon, name = reference.partition(":")
        if not colon:
            raise UnknownFeatures(
                f"{shown(reference)} is not of the form view:feature, such as {_example(registry)}."
            )
        if view not in registry.views:
            raise UnknownFeatures(
                f"There is no feature view {shown(view)}; there are {', '.join(registry.views)}."
            )
        if name not in {feature.name for feature in registry.views[view].features}:
            raise UnknownFeatures(f"The feature view {view} has no feature {shown(name)}.")
        if not full_feature_names and name in names:
            raise AmbiguousFeatures(
                f"{names[name]} and {reference} have the same name; ask with full_feature_names."
            )
        names[name] = reference


def _example(registry: RegistrySnapshot) -> str:
    return next(_references(registry.views.values()), "view:feature")


def _read(
    served: _Served,
    registry: RegistrySnapshot,
    features: FeatureService | list[str],
    customers: Sequence[str],
    full_feature_names: bool,
    view_versions: bool,
) -> GetOnlineFeaturesResponse:
    store = served.store
    try:
        return store.provider.get_online_features(
            config=store.config,
            features=features,
            entity_rows={served.key: list(customers)},
            registry=registry,
            project=store.project,
            full_feature_names=full_feature_names,
            include_feature_view_version_metadata=view_versions,
        ).proto
    except Exception as error:  # which exceptions there are depends on the online store
        log.error("The online store cannot be read (%s: %s).", type(error).__name__, error)
        raise StoreUnavailable(
            f"The online store ({store.config.online_store.type}) cannot be read at the moment; "
            "the server's log says why."
        ) from error


def _without_values(indexes: Sequence[int], document: Document, key: str) -> list[int]:
    """Those of the rows in which everything but the key is null."""
    left = list(indexes)
    for name, result in zip(document["metadata"]["feature_names"], document["results"], strict=True):
        if not left:
            break
        if name != key:
            values = result["values"]
            left = [index for index in left if values[index] is None]
    return left
