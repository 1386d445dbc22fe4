{{ config(
    materialized='incremental', incremental_strategy='append', on_schema_change='fail',
    meta={'snapshots_per_pass': 4}
) }}
with snapshots as (
    {{ missing_snapshots() }}
),

lifetime as (
    select * from {{ ref('int_customer_lifetime') }}
    where
        snapshot_date in ({{ missing_snapshots() }})
        and latest_activity_on >= {{ days_from('snapshot_date', -(var('in_scope_days') | int)) }}
),

customers as (
    select
        customer_id,
        {{ customer_key('customer_id') }} as customer_key,
        signed_up_at,
        {{ visible_from('signed_up_at') }} as visible_from,
        in_force_until as visible_until
    from {{ ref('stg_customers') }}
    where {{ is_ever_visible('signed_up_at') }}
),

-- Customers whose signup a snapshot sees
signed_up as (
    select
        customers.customer_id,
        customers.customer_key,
        snapshots.snapshot_date,
        customers.signed_up_at
    from customers
    inner join snapshots
        on {{ is_visible_at('snapshots.snapshot_date', 'customers') }}
),

-- Windows
window_days as (
    {%- for day in range(1, window_days()[-1] + 1) %}
    select
        snapshot_date,
        {{ days_from('snapshot_date', -day) }} as event_date,
        {{ day }} as days_back
    from snapshots
    {{ 'union all' if not loop.last }}
    {%- endfor %}
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
-- In scope: a signup that the snapshot sees, and a sign of life in the last in_scope_days
final as (
    select
        signed_up.customer_id,
        signed_up.customer_key,
        signed_up.snapshot_date,
        signed_up.signed_up_at,
        {%- for kind in latest_kinds() %}
        lifetime.latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        lifetime.{{ quantity }}_lifetime,
        {%- endfor %}
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
    from signed_up
    inner join lifetime
        on
            signed_up.customer_key = lifetime.customer_key
            and signed_up.snapshot_date = lifetime.snapshot_date
    {%- for days in window_days() %}
    left join stretch_to_{{ days }}d
        on
            signed_up.customer_key = stretch_to_{{ days }}d.customer_key
            and signed_up.snapshot_date = stretch_to_{{ days }}d.snapshot_date
    {%- endfor %}
)

select * from final
