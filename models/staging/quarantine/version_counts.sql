{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set last_run = last_run_held(this) %}
{%- set event_times = {'calls': 'called_at', 'app_events': 'occurred_at', 'tutor_availability': 'week_start'} %}
with records as (
    {% for feed in feeds() %}
    select
        cast('raw_{{ feed }}' as varchar) as source_table,
        coalesce(rejection_reason, 'accepted') as verdict,
        is_repeat,
        coalesce(loaded_at, cast({{ event_times.get(feed, 'updated_at') }} as timestamp)) as landed_at,
        sign
    from (
        {{ news(ref('base_' ~ feed), last_run) }}
    ) as news_of_{{ feed }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

final as (
    select
        source_table,
        verdict,
        cast(sum(case when is_repeat then 0 else sign end) as bigint) as versions,
        max(landed_at) as last_landed_at,
        {{ this_run() }} as recorded_in
    from records
    group by source_table, verdict
)

select * from final
