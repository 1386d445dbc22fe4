{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set missing = missing_snapshots() %}
{%- set earlier = earlier_snapshots(ref('int_customer_day_tiles'), missing) %}
{%- set before = earlier.last %}
{%- set month_ago = earlier.month_before %}
with snapshots as (
    {{ missing }}
),

{%- if before %}

{%- set latest_quantities = latest_kinds().values() | list %}
{%- set other_quantities = lifetime_quantities() | reject('in', latest_quantities) | list %}

new_tiles as (
    select * from {{ ref('int_customer_day_tiles') }}
    where changed_on > {{ before }}
),

-- The latest day of a kind is a running maximum, unless facts of a day were taken back. For the few customers with such
-- a day it is found anew, from what changed in the last month and what a snapshot knew before …
corrected_customers as (
    select distinct customer_key from new_tiles
    where {{ takes_facts_back() }}
),

tiles_of_the_month as (
    select * from {{ ref('int_customer_day_tiles') }}
    where
        changed_on > {{ month_ago }}
        and changed_on <= {{ before }}
        and customer_key in (select corrected.customer_key from corrected_customers as corrected)
),

known_a_month_ago as (
    select * from {{ this }}
    where
        snapshot_date = {{ month_ago }}
        and customer_key in (select corrected.customer_key from corrected_customers as corrected)
),

-- … or from all their tiles, where that was a day from which facts were taken back since.
corrected_long_ago as (
    select distinct known.customer_key
    from known_a_month_ago as known
    inner join (
        select * from new_tiles
        union all
        select * from tiles_of_the_month
    ) as tiles
        on known.customer_key = tiles.customer_key
    where
        {%- for kind, quantity in latest_kinds().items() %}
        {{ 'or ' if not loop.first }}(tiles.{{ quantity }} < 0 and known.latest_{{ kind }}_on = tiles.{{ day_of_kind(kind) }})
        {%- endfor %}
),

tiles as (
    select
        customer_key,
        event_date,
        elapsed_from,
        changed_on,
        {{ latest_quantities | join(', ') }},
        {{ other_quantities | join(', ') }},
        true as is_new
    from new_tiles
    union all
    select
        earlier.customer_key,
        earlier.event_date,
        earlier.elapsed_from,
        earlier.changed_on,
        {%- for quantity in latest_quantities %}
        earlier.{{ quantity }},
        {%- endfor %}
        {%- for quantity in other_quantities %}
        0 as {{ quantity }},
        {%- endfor %}
        false as is_new
    from (
        select * from tiles_of_the_month
        union all
        select * from {{ ref('int_customer_day_tiles') }}
        where
            changed_on <= {{ month_ago }}
            and customer_key in (select corrected.customer_key from corrected_long_ago as corrected)
    ) as earlier
),
{%- endif %}

{#- The first time all tiles are new. They are read where they lie then, because DuckDB keeps the rows of a CTE. #}
{%- set tiles = 'tiles' if before else ref('int_customer_day_tiles') %}

corrected_days as (
    select distinct
        customer_key,
        event_date,
        elapsed_from
    from {{ tiles }}
    where {{ takes_facts_back() }}
),

-- The first snapshot that sees a change
first_snapshots as (
    select
        change_dates.changed_on,
        min(snapshots.snapshot_date) as snapshot_date
    from (select distinct changed_on from {{ tiles }}) as change_dates
    inner join snapshots
        on change_dates.changed_on <= snapshots.snapshot_date
    group by change_dates.changed_on
),

arrivals as (
    select
        tiles.customer_key,
        first_snapshots.snapshot_date,
        {%- for kind, quantity in latest_kinds().items() %}
        max(case
            when tiles.{{ quantity }} > 0 and corrected_days.customer_key is null then tiles.{{ day_of_kind(kind) }}
        end) as latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        {% if before -%}
        sum(case when tiles.is_new then tiles.{{ quantity }} else 0 end) as {{ quantity }}
        {%- else -%}
        cast({{ sum_of(quantity, 'tiles') }} as {{ sum_type(quantity) }}) as {{ quantity }}
        {%- endif %}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from {{ tiles }} as tiles
    inner join first_snapshots
        on tiles.changed_on = first_snapshots.changed_on
    left join corrected_days
        on
            tiles.customer_key = corrected_days.customer_key
            and tiles.event_date = corrected_days.event_date
            and tiles.elapsed_from = corrected_days.elapsed_from
    group by tiles.customer_key, first_snapshots.snapshot_date
),

{%- if before %}

known as (
    select
        known.customer_key,
        (select min(snapshots.snapshot_date) from snapshots) as snapshot_date,
        {%- for kind in latest_kinds() %}
        case
            when corrected.customer_key is null then known.latest_{{ kind }}_on
            when corrected_long_ago.customer_key is null then known_a_month_ago.latest_{{ kind }}_on
        end as latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        known.{{ quantity }}_lifetime as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ this }} as known
    left join corrected_customers as corrected
        on known.customer_key = corrected.customer_key
    left join corrected_long_ago
        on known.customer_key = corrected_long_ago.customer_key
    left join known_a_month_ago
        on known.customer_key = known_a_month_ago.customer_key
    where known.snapshot_date = {{ before }}
),

-- A night has few snapshots; each adds up what it sees.
lifetime as (
    select
        steps.customer_key,
        snapshots.snapshot_date,
        {%- for kind in latest_kinds() %}
        max(steps.latest_{{ kind }}_on) as latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        sum(steps.{{ quantity }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from (
        select * from arrivals
        union all
        select * from known
    ) as steps
    inner join snapshots
        on steps.snapshot_date <= snapshots.snapshot_date
    group by steps.customer_key, snapshots.snapshot_date
),
{%- else %}

-- Every customer has a row in each snapshot since the first; where nothing came, the sums before stand.
due as (
    select
        customers.customer_key,
        snapshots.snapshot_date
    from (
        select
            customer_key,
            min(snapshot_date) as snapshot_date
        from arrivals
        group by customer_key
    ) as customers
    inner join snapshots
        on customers.snapshot_date <= snapshots.snapshot_date
),

due_arrivals as (
    select
        due.customer_key,
        due.snapshot_date,
        {%- for kind in latest_kinds() %}
        arrivals.latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        coalesce(arrivals.{{ quantity }}, 0) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from due
    left join arrivals
        on
            due.customer_key = arrivals.customer_key
            and due.snapshot_date = arrivals.snapshot_date
),

lifetime as (
    select
        customer_key,
        snapshot_date,
        {%- for kind in latest_kinds() %}
        max(latest_{{ kind }}_on) over so_far as latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        sum({{ quantity }}) over so_far as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from due_arrivals
    window so_far as (
        partition by customer_key
        order by snapshot_date
        rows between unbounded preceding and current row
    )
),
{%- endif %}

corrected_changes as (
    select
        tiles.customer_key,
        tiles.event_date,
        tiles.elapsed_from,
        first_snapshots.snapshot_date,
        {%- for quantity in latest_kinds().values() %}
        sum(tiles.{{ quantity }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ tiles }} as tiles
    inner join first_snapshots
        on tiles.changed_on = first_snapshots.changed_on
    where
        exists (
            select 1 from corrected_days
            where
                tiles.customer_key = corrected_days.customer_key
                and tiles.event_date = corrected_days.event_date
                and tiles.elapsed_from = corrected_days.elapsed_from
        )
    group by tiles.customer_key, tiles.event_date, tiles.elapsed_from, first_snapshots.snapshot_date
),

-- Days from which facts were taken back, in the snapshots that see some left there
corrected_latest as (
    select
        customer_key,
        snapshot_date,
        {%- for kind, quantity in latest_kinds().items() %}
        max(case when {{ quantity }} > 0 then {{ day_of_kind(kind) }} end) as latest_{{ kind }}_on
        {{- ',' if not loop.last }}
        {%- endfor %}
    from (
        select
            corrected_changes.customer_key,
            corrected_changes.event_date,
            corrected_changes.elapsed_from,
            snapshots.snapshot_date,
            {%- for quantity in latest_kinds().values() %}
            sum(corrected_changes.{{ quantity }}) as {{ quantity }}{{ ',' if not loop.last }}
            {%- endfor %}
        from corrected_changes
        inner join snapshots
            on corrected_changes.snapshot_date <= snapshots.snapshot_date
        group by
            corrected_changes.customer_key,
            corrected_changes.event_date,
            corrected_changes.elapsed_from,
            snapshots.snapshot_date
    ) as days
    group by customer_key, snapshot_date
),

final as (
    select
        lifetime.customer_key,
        lifetime.snapshot_date,
        {%- for kind in latest_kinds() %}
        {{ later_of('lifetime.latest_' ~ kind ~ '_on', 'corrected_latest.latest_' ~ kind ~ '_on') }}
            as latest_{{ kind }}_on,
        {%- endfor %}
        {%- for quantity in lifetime_quantities() %}
        cast(lifetime.{{ quantity }} as {{ sum_type(quantity) }}) as {{ quantity }}_lifetime,
        {%- endfor %}
        (select min(recorded_in) from {{ ref('int_customer_day_tiles') }}) as tiles_built_in
    from lifetime
    left join corrected_latest
        on
            lifetime.customer_key = corrected_latest.customer_key
            and lifetime.snapshot_date = corrected_latest.snapshot_date
)

select * from final
{%- if not is_incremental() %}
{#- Nights look for a snapshot, the last one or that of a month ago, and read no others then. #}
order by snapshot_date
{%- endif %}
