{%- set outside = "'not_in_scope'" -%}
with predictions as (
    select
        customer_id,
        feature_timestamp,
        model_version,
        health_tier
    from {{ ref('customer_predictions') }}
    where
        -- The weekly snapshots: Mondays, counted from one of them
        mod({{ dbt.datediff("cast('1900-01-01' as date)", 'cast(feature_timestamp as date)', 'day') }}, 7) = 0
),

snapshots as (
    select
        model_version,
        feature_timestamp as to_snapshot,
        lag(feature_timestamp) over (partition by model_version order by feature_timestamp) as from_snapshot
    from (select distinct model_version, feature_timestamp from predictions) as scored
),

-- A customer is in a move when either of its two snapshots has them: who enters or leaves the scope moves as well.
moves as (
    select
        snapshots.model_version,
        snapshots.from_snapshot,
        snapshots.to_snapshot,
        predictions.customer_id,
        max(case when predictions.feature_timestamp = snapshots.from_snapshot then predictions.health_tier end)
            as from_tier,
        max(case when predictions.feature_timestamp = snapshots.to_snapshot then predictions.health_tier end)
            as to_tier
    from snapshots
    inner join predictions
        on
            snapshots.model_version = predictions.model_version
            and predictions.feature_timestamp in (snapshots.from_snapshot, snapshots.to_snapshot)
    where snapshots.from_snapshot is not null
    group by
        snapshots.model_version,
        snapshots.from_snapshot,
        snapshots.to_snapshot,
        predictions.customer_id
),

final as (
    select
        model_version,
        from_snapshot,
        to_snapshot,
        coalesce(from_tier, {{ outside }}) as from_tier,
        coalesce(to_tier, {{ outside }}) as to_tier,
        count(*) as customers
    from moves
    group by
        model_version,
        from_snapshot,
        to_snapshot,
        coalesce(from_tier, {{ outside }}),
        coalesce(to_tier, {{ outside }})
)

select * from final
