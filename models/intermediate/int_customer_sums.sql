{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
with snapshots as (
    {{ missing_snapshots() }}
),

tiles as (
    select * from {{ ref('int_customer_day_tiles') }}
),

replaced_facts as (
    select
        customer_id,
        event_at,
        latest_kind,
        is_activity,
        visible_from,
        visible_until
    from {{ ref('int_customer_facts') }}
    where
        visible_until is not null
        and (latest_kind is not null or is_activity)
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

-- Lifetime: what came since the snapshot before, summed up from snapshot to snapshot
change_dates as (
    select distinct changed_on from tiles
),

first_snapshots as (
    select
        change_dates.changed_on,
        min(snapshots.snapshot_date) as snapshot_date
    from change_dates
    inner join snapshots
        on change_dates.changed_on <= snapshots.snapshot_date
    group by change_dates.changed_on
),

arrivals as (
    select
        tiles.customer_id,
        first_snapshots.snapshot_date,
        {%- for kind in latest_kinds() %}
        max(tiles.latest_{{ kind }}_at) as latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        sum(tiles.{{ quantity }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from tiles
    inner join first_snapshots
        on tiles.changed_on = first_snapshots.changed_on
    group by tiles.customer_id, first_snapshots.snapshot_date
),

-- A snapshot that a customer's row is due in but nothing came for takes the sums before it.
due as (
    select
        customer_id,
        snapshot_date
    from arrivals
    union
    select
        customer_id,
        snapshot_date
    from signed_up
),

lifetime as (
    select
        due.customer_id,
        due.snapshot_date,
        {%- for kind in latest_kinds() %}
        max(arrivals.latest_{{ kind }}_at) over so_far as latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        coalesce(sum(arrivals.{{ quantity }}) over so_far, 0) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from due
    left join arrivals
        on
            due.customer_id = arrivals.customer_id
            and due.snapshot_date = arrivals.snapshot_date
    window so_far as (
        partition by due.customer_id
        order by due.snapshot_date
        rows between unbounded preceding and current row
    )
),

-- Facts that this snapshot saw and a later version replaced are not in the running maximum.
replaced_latest as (
    select
        replaced_facts.customer_id,
        snapshots.snapshot_date,
        {%- for kind in latest_kinds() %}
        max(case when {{ is_of_kind(kind) }} then replaced_facts.event_at end) as latest_{{ kind }}_at
        {{- ',' if not loop.last }}
        {%- endfor %}
    from replaced_facts
    inner join snapshots
        on {{ is_visible_at('snapshots.snapshot_date', 'replaced_facts') }}
    group by replaced_facts.customer_id, snapshots.snapshot_date
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
        {%- for quantity in quantities() + ['active_days'] %}
        cast(sum(
            {%- if outer_loop.last %}tiles.{{ quantity }}
            {%- else %}case when window_days.days_back <= {{ days }} then tiles.{{ quantity }} else 0 end
            {%- endif -%}
        ) as {{ quantity_type(quantity) }}) as {{ quantity }}_{{ days }}d
        {{- ',' if not (outer_loop.last and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from tiles
    inner join window_days
        on tiles.event_date = window_days.event_date
    where tiles.changed_on <= window_days.snapshot_date
    group by tiles.customer_id, window_days.snapshot_date
),

final as (
    select
        signed_up.customer_id,
        signed_up.snapshot_date,
        signed_up.signed_up_at,
        {%- for kind in latest_kinds() %}
        {{ later_of('lifetime.latest_' ~ kind ~ '_at', 'replaced_latest.latest_' ~ kind ~ '_at') }}
            as latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        cast(lifetime.{{ quantity }} as {{ quantity_type(quantity) }}) as {{ quantity }}_lifetime,
        {%- endfor %}
        {%- for days in window_days() %}
        {%- set outer_loop = loop %}
        {%- for quantity in quantities() + ['active_days'] %}
        coalesce(windows.{{ quantity }}_{{ days }}d, 0) as {{ quantity }}_{{ days }}d
        {{- ',' if not (outer_loop.last and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from signed_up
    inner join lifetime
        on
            signed_up.customer_id = lifetime.customer_id
            and signed_up.snapshot_date = lifetime.snapshot_date
    left join replaced_latest
        on
            signed_up.customer_id = replaced_latest.customer_id
            and signed_up.snapshot_date = replaced_latest.snapshot_date
    left join windows
        on
            signed_up.customer_id = windows.customer_id
            and signed_up.snapshot_date = windows.snapshot_date
),

in_scope as (
    select * from final
    where latest_activity_at >= {{ days_from('snapshot_date', -(var('in_scope_days') | int)) }}
)

select * from in_scope
