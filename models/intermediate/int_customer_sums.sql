{{ config(materialized='ephemeral') }}
{%- set missing = snapshots_without_features() %}
with snapshots as (
    {{ missing }}
),

in_scope as (
    select * from {{ ref('int_customers_in_scope') }}
    where snapshot_date in ({{ missing }})
),

window_days as (
    {{ days_of_windows('snapshots') }}
),

{#-
    Every day of the longest window lies in one stretch: days 1 to 7, 8 to 14, 15 to 30. Windows are sums of stretches, so that a
    tile is added up once a snapshot. A CTE a stretch, and a reading of the tiles each: one hash table for all would be three
    times as wide, in rows and in memory, and DuckDB keeps the rows of a CTE that is read several times.
#}
{%- for days in window_days() %}
stretch_to_{{ days }}d as (
    select
        tiles.customer_key,
        window_days.snapshot_date,
        {%- for quantity in windowed_quantities(window_days()[-1]) %}
        cast({{ sum_of(quantity, 'tiles') }} as {{ sum_type(quantity) }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ ref('int_customer_day_tiles') }} as tiles
    inner join window_days
        on tiles.event_date = window_days.event_date
    where
        tiles.changed_on <= window_days.snapshot_date
        and window_days.days_back > {{ loop.previtem or 0 }}
        and window_days.days_back <= {{ days }}
    group by tiles.customer_key, window_days.snapshot_date
),

{% endfor %}
final as (
    select
        in_scope.*,
        {%- for days in window_days() %}
        {%- set outer_loop = loop %}
        {%- for quantity in windowed_quantities(days) %}
        {% for stretch in window_days() if stretch <= days -%}
        {{ '+ ' if not loop.first }}coalesce(stretch_to_{{ stretch }}d.{{ quantity }}, 0)
        {%- endfor %}
            as {{ quantity }}_{{ days }}d
        {{- ',' if not (outer_loop.last and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from in_scope
    {%- for days in window_days() %}
    left join stretch_to_{{ days }}d
        on
            in_scope.customer_key = stretch_to_{{ days }}d.customer_key
            and in_scope.snapshot_date = stretch_to_{{ days }}d.snapshot_date
    {%- endfor %}
)

select * from final
