{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
with snapshots as (
    {{ missing_snapshots() }}
),

tiles as (
    select * from {{ ref('int_customer_day_tiles') }}
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

windows as (
    select
        tiles.customer_id,
        window_days.snapshot_date,
        {%- for days in window_days() %}
        {%- set outer_loop = loop %}
        {%- for quantity in windowed_quantities(days) %}
        cast(sum(
            {%- if outer_loop.last %}tiles.{{ quantity }}
            {%- else %}case when window_days.days_back <= {{ days }} then tiles.{{ quantity }} else 0 end
            {%- endif -%}
        ) as {{ sum_type(quantity) }}) as {{ quantity }}_{{ days }}d
        {{- ',' if not (outer_loop.last and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from tiles
    inner join window_days
        on tiles.event_date = window_days.event_date
    where tiles.changed_on <= window_days.snapshot_date
    group by tiles.customer_id, window_days.snapshot_date
),

-- In scope: a signup that the snapshot sees, and a sign of life in the last in_scope_days
final as (
    select
        signed_up.customer_id,
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
        coalesce(windows.{{ quantity }}_{{ days }}d, 0) as {{ quantity }}_{{ days }}d
        {{- ',' if not (outer_loop.last and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from signed_up
    inner join lifetime
        on
            signed_up.customer_id = lifetime.customer_id
            and signed_up.snapshot_date = lifetime.snapshot_date
    left join windows
        on
            signed_up.customer_id = windows.customer_id
            and signed_up.snapshot_date = windows.snapshot_date
)

select * from final
