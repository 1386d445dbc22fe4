{%- set read_from = lapses_read_from(ref('int_labels_due'), ref('stg_customers'), ref('base_customer_arrivals')) %}
with due as (
    select
        customer_id,
        cast(snapshot_date as timestamp) as feature_timestamp
    from {{ ref('int_labels_due') }}
),

customers as (
    select
        customer_id,
        signed_up_at
    from {{ ref('stg_customers') }}
    where in_force_until is null
),

completed_sessions as (
    select
        customer_id,
        completed_at
    from {{ ref('int_completed_sessions') }}
    {%- if read_from %}
    where completed_at >= cast('{{ read_from }}' as timestamp)
    {%- endif %}
),

horizons as (
    select
        customer_id,
        feature_timestamp,
        14 as horizon_days,
        {{ dbt.dateadd('day', 14, 'feature_timestamp') }} as horizon_at
    from due
    union all
    select
        customer_id,
        feature_timestamp,
        30 as horizon_days,
        {{ dbt.dateadd('day', 30, 'feature_timestamp') }} as horizon_at
    from due
),

-- Horizons and sessions on one time line. A session at the very horizon comes after it.
time_line as (
    select
        customer_id,
        horizon_at as moment,
        0 as is_session,
        feature_timestamp,
        horizon_days
    from horizons
    union all
    select
        customer_id,
        completed_at as moment,
        1 as is_session,
        cast(null as timestamp) as feature_timestamp,
        cast(null as integer) as horizon_days
    from completed_sessions
),

neighbours as (
    select
        customer_id,
        feature_timestamp,
        horizon_days,
        max(case when is_session = 1 then moment end) over (
            partition by customer_id
            order by moment, is_session
            rows between unbounded preceding and current row
        ) as last_session_at,
        min(case when is_session = 1 then moment end) over (
            partition by customer_id
            order by moment, is_session
            rows between current row and unbounded following
        ) as next_session_at
    from time_line
),

lapses as (
    select
        neighbours.customer_id,
        neighbours.feature_timestamp,
        neighbours.horizon_days,
        case
            when
                neighbours.next_session_at is null
                or neighbours.next_session_at
                > {{ dbt.dateadd(
                    'day', var('lapse_days') | int, 'coalesce(neighbours.last_session_at, customers.signed_up_at)'
                ) }}
                then 1
            else 0
        end as has_lapse
    from neighbours
    inner join customers
        on neighbours.customer_id = customers.customer_id
    where neighbours.horizon_days is not null
),

-- A lapse across D + 14 days started before D + 30 days too, even if the customer is back by then: the 30-day label is
-- never below the 14-day one (docs/decisions.md, "Labels").
final as (
    select
        customer_id,
        feature_timestamp,
        max(case when horizon_days = 14 then has_lapse end) as has_lapse_14d,
        max(has_lapse) as has_lapse_30d,
        (select max(labels_due.recorded_in) from {{ ref('int_labels_due') }} as labels_due) as recorded_in
    from lapses
    group by customer_id, feature_timestamp
)

select * from final
