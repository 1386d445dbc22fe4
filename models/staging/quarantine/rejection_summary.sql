{{ config(post_hook="{{ stop_if_too_many_rejected(this) }}") }}

with rejected_rows as (
    select
        source_table,
        reason
    from {{ ref('rejected_rows') }}
),

accepted as (
    {% for feed in feeds() %}
    select
        cast('raw_{{ feed }}' as varchar) as source_table,
        count(*) as accepted_versions
    from {{ ref('stg_' ~ feed) }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

rejected_by_reason as (
    select
        source_table,
        reason,
        count(*) as rejected_versions
    from rejected_rows
    group by source_table, reason
),

rejected as (
    select
        source_table,
        sum(rejected_versions) as rejected_versions,
        max(case when reason_rank = 1 then reason end) as main_reason
    from (
        select
            *,
            row_number() over (partition by source_table order by rejected_versions desc, reason asc) as reason_rank
        from rejected_by_reason
    ) as ranked
    group by source_table
),

final as (
    select
        accepted.source_table,
        accepted.accepted_versions,
        cast(coalesce(rejected.rejected_versions, 0) as bigint) as rejected_versions,
        coalesce(cast(rejected.rejected_versions as double), 0)
        / greatest(accepted.accepted_versions + coalesce(rejected.rejected_versions, 0), 1) as rejected_share,
        rejected.main_reason
    from accepted
    left join rejected
        on accepted.source_table = rejected.source_table
)

select * from final
