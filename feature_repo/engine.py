"""The batch engine of the feature store: Feast's materialization, a column at a time.

Registered in feature_store.yaml (`batch_engine.type`), so that `feast materialize` uses it too. What it
writes is to the last byte what Feast's own engine writes, and is read by Feast's own online stores.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.types import Bool, Float64, Int32, Int64, String

from feature_repo.online import online_rows

COLUMN_TYPES = (Bool, Float64, Int32, Int64, String)


class ColumnarEngineConfig(FeastConfigBaseModel):
    """The configuration of `ColumnarEngine`; it has nothing to set."""

    type: Literal["feature_repo.engine.ColumnarEngine"] = "feature_repo.engine.ColumnarEngine"


class ColumnarEngine(LocalComputeEngine):
    """Writes feature views of scalar columns and one string join key into SQLite and Redis by columns.

    Anything else goes the way of Feast's own local engine.
    """

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs
    ) -> LocalMaterializationJob:
        rows = online_rows(self.repo_config, self.online_store)
        if rows is None or not _is_plain(task):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            view, table = task.feature_view, self._latest(task)
            batch_size = self.repo_config.materialization_config.online_write_batch_size or max(
                table.num_rows, 1
            )
            with rows.writing(view) as write:
                for batch in table.to_batches(max_chunksize=batch_size):
                    write(batch)
        except Exception as error:  # Feast raises it where the job is awaited
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _latest(self, task: MaterializationTask) -> pa.Table:
        """Each customer's newest row of the source in the task's time, sorted by customer."""
        view = task.feature_view
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=view.batch_source,
            join_key_columns=list(view.join_keys),
            feature_name_columns=[field.name for field in view.features],
            timestamp_field=view.batch_source.timestamp_field,
            created_timestamp_column=None,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        # In the order of SQLite's index, which grows fastest at its end.
        return job.to_arrow().sort_by(view.join_keys[0]).combine_chunks()


def _is_plain(task: MaterializationTask) -> bool:
    view, source = task.feature_view, task.feature_view.batch_source
    return (
        view.online
        and not view.offline
        and task.only_latest
        and not task.disable_event_timestamp
        and not source.field_mapping
        and not source.created_timestamp_column
        and getattr(view, "feature_transformation", None) is None
        and not getattr(view, "aggregations", None)
        and [field.dtype for field in view.entity_columns] == [String]
        and all(field.dtype in COLUMN_TYPES for field in view.features)
    )
