{{ config(materialized='view') }}
with rejected as (
    {% for feed in feeds() %}
    {{ rejected_versions('raw_' ~ feed, ref('base_' ~ feed)) }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select * from rejected
