{%- set last = last_labels(ref('int_as_of'), ref('customer_features')) %}
-- depends_on: {{ ref('base_sessions') }}
-- depends_on: {{ ref('base_customers') }}
-- depends_on: {{ ref('stg_customers') }}
-- depends_on: {{ ref('int_customer_day_tiles') }}
with run as (
    select as_of from {{ ref('int_as_of') }}
),

features as (
    select
        customer_id,
        feature_timestamp,
        cast(feature_timestamp as date) as snapshot_date
    from {{ ref('customer_features') }}
),

{%- if last %}

customers as (
    select
        customer_id,
        {{ customer_key('customer_id') }} as customer_key,
        signed_up_at
    from {{ ref('stg_customers') }}
    where in_force_until is null
),

-- What is new since the labels were last written, and when it happened: in tiles that count in a label …
new_tiles as (
    select
        customers.customer_id,
        tiles.event_date
    from {{ ref('int_customer_day_tiles') }} as tiles
    inner join customers
        on tiles.customer_key = customers.customer_key
    where
        tiles.recorded_in > {{ last.recorded_in }}
        and {{ counts_in_labels('tiles') }}
),

-- … in the latest versions of completed sessions, whose tutor or time of day may change and leave no trace in tiles …
session_records as (
    select
        customer_id,
        session_id,
        tutor_id,
        resolved_at,
        rating,
        rated_at,
        sign
    from (
        {{ news_since(last.recorded_in, ref('base_sessions')) }}
    ) as records
    where
        {{ is_version() }}
        and in_force_until is null
        and status = 'completed'
),

session_facts as (
    select
        customer_id,
        session_id,
        tutor_id,
        resolved_at as event_at,
        cast(null as integer) as rating,
        sign
    from session_records
    union all
    select
        customer_id,
        session_id,
        cast(null as {{ dbt.type_string() }}) as tutor_id,
        rated_at as event_at,
        rating,
        sign
    from session_records
    where rating is not null
),

-- … (what was recorded anew and is the same is no news) …
changed_sessions as (
    select
        customer_id,
        cast(event_at as date) as event_date
    from session_facts
    group by customer_id, session_id, tutor_id, event_at, rating
    having sum(sign) <> 0
),

signup_records as (
    select
        customer_id,
        signed_up_at,
        sign
    from (
        {{ news_since(last.recorded_in, ref('base_customers')) }}
    ) as records
    where
        {{ is_version() }}
        and in_force_until is null
),

-- … and in signups, which count for all snapshots.
changed_signups as (
    select
        customer_id,
        cast('1900-01-01' as date) as event_date
    from signup_records
    group by customer_id, signed_up_at
    having sum(sign) <> 0
),

news as (
    select
        customer_id,
        min(event_date) as event_date
    from (
        select * from new_tiles
        union all
        select * from changed_sessions
        union all
        select * from changed_signups
    ) as all_news
    group by customer_id
),

-- News come late for a snapshot when a mature label looks at their day. A signup corrected to a day long after a
-- snapshot is when its lapse begins; then the label looks as far ahead as that.
late as (
    select
        features.customer_id,
        features.snapshot_date
    from features
    inner join news
        on features.customer_id = news.customer_id
    inner join customers
        on features.customer_id = customers.customer_id
    where
        {{ mature_label_looks_at('news.event_date', 'features.feature_timestamp', last.as_of) }}
        or (
            features.feature_timestamp <= {{ days_from(as_date(last.as_of), -(label_horizons().values() | min)) }}
            and customers.signed_up_at >= {{ days_from('features.snapshot_date', 14) }}
        )
),

due as (
    select
        customer_id,
        snapshot_date
    from late
    union
    select
        customer_id,
        snapshot_date
    from features
    where feature_timestamp in ({{ last.snapshots }})
),

final as (
    select
        due.customer_id,
        due.snapshot_date,
        due.customer_id in (select late.customer_id from late) as is_late,
        run.as_of,
        {{ this_run() }} as recorded_in
    from due
    cross join run
)
{%- else %}

final as (
    select
        features.customer_id,
        features.snapshot_date,
        false as is_late,
        run.as_of,
        {{ this_run() }} as recorded_in
    from features
    cross join run
)
{%- endif %}

select * from final
