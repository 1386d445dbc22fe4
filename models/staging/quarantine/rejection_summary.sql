{{ config(materialized='view', post_hook="{{ stop_if_too_many_rejected(this) }}") }}

with counts as (
    select
        source_table,
        verdict,
        sum(versions) as versions
    from {{ ref('version_counts') }}
    group by source_table, verdict
),

feeds as (
    {% for feed in feeds() %}
    select cast('raw_{{ feed }}' as varchar) as source_table
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

rejected as (
    select
        source_table,
        sum(versions) as rejected_versions,
        max(case when reason_rank = 1 then verdict end) as main_reason
    from (
        select
            *,
            row_number() over (partition by source_table order by versions desc, verdict asc) as reason_rank
        from counts
        where
            verdict <> 'accepted'
            and versions > 0
    ) as ranked
    group by source_table
),

versions as (
    select
        feeds.source_table,
        cast(coalesce(accepted.versions, 0) as bigint) as accepted_versions,
        cast(coalesce(rejected.rejected_versions, 0) as bigint) as rejected_versions,
        rejected.main_reason
    from feeds
    left join counts as accepted
        on
            feeds.source_table = accepted.source_table
            and accepted.verdict = 'accepted'
    left join rejected
        on feeds.source_table = rejected.source_table
),

final as (
    select
        source_table,
        accepted_versions,
        rejected_versions,
        cast(rejected_versions as double) / greatest(accepted_versions + rejected_versions, 1) as rejected_share,
        main_reason
    from versions
)

select * from final
