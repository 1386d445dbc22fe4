-- The leanest hand-made SQL for the 59 features: the yardstick of the full build (benchmarks/features.py). It reads the
-- variables raw (the directory of the raw tables) and as_of (the last snapshot) and makes one table, customer_features.
-- Tiles a customer and day, sums so far a snapshot, windows as sums of the tiles of their days.
--
-- What it leaves out, and the dbt models do: every row is believed to be good, delivered once and known when it happened
-- (no quarantine, no contract, no repeated deliveries of calls and app events, no late rows); a session or payment is what
-- its last version says, also in snapshots before that version; nothing can be added a night later; no Parquet for Feast.

create temp table sessions as
from read_parquet(getvariable('raw') || '/raw_sessions/*.parquet')
qualify row_number() over (partition by session_id order by loaded_at desc) = 1;

create temp table payments as
from read_parquet(getvariable('raw') || '/raw_payments/*.parquet')
qualify row_number() over (partition by payment_id order by loaded_at desc) = 1;

create temp table customers as
from read_parquet(getvariable('raw') || '/raw_customers/*.parquet');

create temp table signups as
select customer_id, min(signed_up_at) as signed_up_at from customers where signed_up_at is not null group by customer_id;

create temp table snapshots as
select day::date as snapshot
from generate_series(date '2000-01-03', getvariable('as_of')::date, interval 7 day) as mondays(day)
where day >= (select min(signed_up_at) + interval 120 day from signups)
union
select getvariable('as_of')::date;

-- Null where a fact does not carry a quantity: null is neither counted nor added.
create temp table tiles as
select
    customer_id,
    event_at::date as day,
    count(completed)::integer as completed,
    count(cancelled)::integer as cancelled,
    count(no_show)::integer as no_shows,
    count(resolved)::integer as resolved,
    sum(minutes)::integer as minutes,
    count(minutes)::integer as timed,
    sum(rating)::integer as stars,
    count(rating)::integer as ratings,
    sum(response)::bigint as response,
    count(response)::integer as responses,
    count(inbound)::integer as inbound,
    count(negative)::integer as negative,
    count(login)::integer as logins,
    count(message)::integer as messages,
    count(succeeded)::integer as succeeded,
    count(failed)::integer as failed,
    sum(amount)::decimal(18, 2) as amount,
    (count(completed) + count(login) + count(message) > 0)::integer as active,
    max(completed) as last_completed,
    max(login) as last_login,
    max(succeeded) as last_succeeded,
    max(inbound) as last_inbound,
    greatest(max(completed), max(login), max(message), max(succeeded), max(failed), max(inbound), max(signup)) as last_alive
from (
    select
        customer_id,
        resolved_at as event_at,
        case when status = 'completed' then resolved_at end as completed,
        case when status = 'cancelled_by_customer' then 1 end as cancelled,
        case when status = 'no_show' then 1 end as no_show,
        1 as resolved,
        case when status = 'completed' then duration_minutes end as minutes
    from sessions
    where status <> 'scheduled'
    union all by name
    select customer_id, rated_at as event_at, rating from sessions where rating is not null
    union all by name
    select customer_id, confirmed_at as event_at, epoch_us(confirmed_at) - epoch_us(booked_at) as response
    from sessions
    where confirmed_at is not null
    union all by name
    select
        customer_id,
        called_at as event_at,
        called_at as inbound,
        case when sentiment_score < -0.3 then 1 end as negative
    from read_parquet(getvariable('raw') || '/raw_calls/*.parquet')
    where direction = 'inbound'
    union all by name
    select
        customer_id,
        occurred_at as event_at,
        case when event_type = 'login' then occurred_at end as login,
        case when event_type = 'message_sent' then occurred_at end as message
    from read_parquet(getvariable('raw') || '/raw_app_events/*.parquet')
    union all by name
    select
        customer_id,
        attempted_at as event_at,
        case when status = 'succeeded' then attempted_at end as succeeded,
        case when status = 'failed' then attempted_at end as failed,
        case status when 'succeeded' then amount when 'refunded' then -amount end as amount
    from payments
    where status <> 'pending'
    union all by name
    select customer_id, signed_up_at as event_at, signed_up_at as signup from signups
)
group by customer_id, day;

-- Sums and latest moments so far: tiles are added to the first snapshot after them, then snapshot to snapshot.
create temp table lifetime as
with steps as (
    select
        tiles.customer_id,
        first_snapshot.snapshot,
        sum(completed) as completed,
        sum(minutes) as minutes,
        sum(timed) as timed,
        sum(stars) as stars,
        sum(ratings) as ratings,
        sum(response) as response,
        sum(responses) as responses,
        sum(succeeded) as succeeded,
        sum(failed) as failed,
        sum(amount) as amount,
        max(last_completed) as last_completed,
        max(last_login) as last_login,
        max(last_succeeded) as last_succeeded,
        max(last_inbound) as last_inbound,
        max(last_alive) as last_alive
    from tiles
    inner join (
        select day, min(snapshot) as snapshot
        from (select distinct day from tiles)
        inner join snapshots on day < snapshot
        group by day
    ) as first_snapshot using (day)
    group by all
)
select
    signups.customer_id,
    snapshots.snapshot,
    signups.signed_up_at,
    sum(completed) over so_far as completed,
    sum(minutes) over so_far as minutes,
    sum(timed) over so_far as timed,
    sum(stars) over so_far as stars,
    sum(ratings) over so_far as ratings,
    sum(response) over so_far as response,
    sum(responses) over so_far as responses,
    sum(succeeded) over so_far as succeeded,
    sum(failed) over so_far as failed,
    sum(amount) over so_far as amount,
    max(last_completed) over so_far as last_completed,
    max(last_login) over so_far as last_login,
    max(last_succeeded) over so_far as last_succeeded,
    max(last_inbound) over so_far as last_inbound
from signups
inner join snapshots on signups.signed_up_at < snapshots.snapshot
left join steps using (customer_id, snapshot)
window so_far as (partition by signups.customer_id order by snapshots.snapshot)
qualify max(last_alive) over so_far >= snapshots.snapshot - interval 90 day;

create temp table windows as
select
    customer_id,
    snapshot,
    sum(columns('^(completed|cancelled|no_shows|resolved|minutes|timed|stars|ratings)$')) filter (age <= 7) as '\0_7d',
    sum(columns('^(inbound|negative|logins|messages|active|succeeded|failed|amount)$')) filter (age <= 7) as '\0_7d',
    sum(columns('^(completed|cancelled|no_shows|resolved|minutes|timed|stars|ratings)$')) filter (age <= 14) as '\0_14d',
    sum(columns('^(inbound|negative|logins|messages|active|succeeded|failed|amount)$')) filter (age <= 14) as '\0_14d',
    sum(columns('^(completed|cancelled|no_shows|resolved|minutes|timed|stars|ratings)$')) as '\0_30d',
    sum(columns('^(inbound|negative|logins|messages|active|succeeded|failed|amount)$')) as '\0_30d',
    sum(response) as response_30d,
    sum(responses) as responses_30d
from tiles
inner join (
    select snapshot, age, (snapshot - age::integer)::date as day from snapshots cross join range(1, 31) as ages(age)
) as days using (day)
group by customer_id, snapshot;

-- Completed sessions in their order; the tutor of the one before, the most frequent subject so far.
create temp table ordered as
with numbered as (
    select
        customer_id,
        session_id,
        tutor_id,
        subject,
        resolved_at,
        case when rating >= 4 then rated_at end as success_at,
        row_number() over so_far as place,
        lag(tutor_id) over so_far as tutor_before,
        row_number() over (partition by customer_id, subject order by resolved_at, session_id) as times
    from sessions
    where status = 'completed'
    window so_far as (partition by customer_id order by resolved_at, session_id)
)
select
    *,
    max(struct_pack(times, place, subject)) over (partition by customer_id order by place) as most_frequent
from numbered;

create temp table switches as
select customer_id, snapshot, count(*) as switches
from ordered
inner join (
    select snapshot, (snapshot - age::integer)::date as day from snapshots cross join range(1, 31) as ages(age)
) as days on resolved_at::date = days.day
where tutor_id <> tutor_before
group by all;

-- The most frequent tutor of the last 20 sessions, tie to the latest, for every count of sessions that a snapshot sees.
create temp table tutors as
with counts as (
    select distinct customer_id, completed as seen from lifetime where completed > 0
),

recent as (
    select customer_id, seen, tutor_id, count(*) as times, max(place) as last_place
    from (select customer_id, seen, seen - unnest(range(least(seen, 20)::bigint)) as place from counts)
    inner join ordered using (customer_id, place)
    group by all
)

select
    customer_id,
    seen,
    max_by(tutor_id, (times, last_place)) as tutor_id,
    max(times / least(seen, 20)::double) as consistency
from recent
group by all;

-- All ratings of a tutor so far.
create temp table tutor_ratings as
select
    tutor_id,
    snapshot,
    sum(sum(rating)) over so_far / sum(count(rating)) over so_far::double as rating
from (select distinct tutor_id from sessions)
cross join snapshots
left join (
    select tutor_id, rating, (select min(snapshot) from snapshots where snapshot > rated_at) as snapshot
    from sessions
    where rating is not null
) using (tutor_id, snapshot)
group by tutor_id, snapshot
window so_far as (partition by tutor_id order by snapshot);

-- Stands in for customers without a completed session.
create temp table next_sessions as
select
    lifetime.customer_id,
    lifetime.snapshot,
    min_by(sessions.tutor_id, (scheduled_at, session_id)) as tutor_id,
    min_by(sessions.subject, (scheduled_at, session_id)) as subject
from lifetime
inner join sessions using (customer_id)
where
    coalesce(completed, 0) = 0
    and booked_at < snapshot
    and scheduled_at >= snapshot
    and (resolved_at is null or resolved_at >= snapshot)
group by all;

create table customer_features as
with subjects(subject, code) as (
    select unnest([
        'algebra_1', 'algebra_2', 'geometry', 'precalculus', 'ap_calculus', 'ap_physics', 'ap_chemistry', 'ap_biology',
        'spanish', 'french', 'english', 'history', 'sat_prep', 'act_prep', 'ap_statistics', 'computer_science',
        'economics', 'psychology', 'elementary_math', 'middle_school_science'
    ]), unnest(range(20))
),

joined as (
    select
        lifetime.*,
        windows.* exclude (customer_id, snapshot),
        coalesce(last_sessions.most_frequent.subject, next_sessions.subject) as subject,
        coalesce(tutors.tutor_id, next_sessions.tutor_id) as tutor_id,
        consistency,
        switches,
        first_sessions.success_at,
        subscription_tier as tier,
        acquisition_channel as channel,
        grade_level as grade
    from lifetime
    left join windows using (customer_id, snapshot)
    left join switches using (customer_id, snapshot)
    left join next_sessions using (customer_id, snapshot)
    left join ordered as first_sessions on lifetime.customer_id = first_sessions.customer_id and first_sessions.place = 1
    left join ordered as last_sessions
        on lifetime.customer_id = last_sessions.customer_id and lifetime.completed = last_sessions.place
    left join tutors on lifetime.customer_id = tutors.customer_id and lifetime.completed = tutors.seen
    asof left join customers
        on lifetime.customer_id = customers.customer_id and lifetime.snapshot > customers.updated_at
)

select
    customer_id,
    snapshot::timestamp as feature_timestamp,
    coalesce(completed_7d, 0)::integer as session_count_7d,
    coalesce(completed_14d, 0)::integer as session_count_14d,
    coalesce(completed_30d, 0)::integer as session_count_30d,
    session_count_7d * 7.0::double / 7 as session_frequency_7d,
    session_count_14d * 7.0::double / 14 as session_frequency_14d,
    session_count_30d * 7.0::double / 30 as session_frequency_30d,
    coalesce(stars_7d / nullif(ratings_7d, 0), stars / nullif(ratings, 0), 4.0) as avg_rating_7d,
    coalesce(stars_14d / nullif(ratings_14d, 0), stars / nullif(ratings, 0), 4.0) as avg_rating_14d,
    coalesce(stars_30d / nullif(ratings_30d, 0), stars / nullif(ratings, 0), 4.0) as avg_rating_30d,
    coalesce(cancelled_7d / nullif(resolved_7d, 0), 0) as cancellation_rate_7d,
    coalesce(cancelled_14d / nullif(resolved_14d, 0), 0) as cancellation_rate_14d,
    coalesce(cancelled_30d / nullif(resolved_30d, 0), 0) as cancellation_rate_30d,
    coalesce(no_shows_7d / nullif(resolved_7d, 0), 0) as no_show_rate_7d,
    coalesce(no_shows_14d / nullif(resolved_14d, 0), 0) as no_show_rate_14d,
    coalesce(no_shows_30d / nullif(resolved_30d, 0), 0) as no_show_rate_30d,
    coalesce(minutes_7d / nullif(timed_7d, 0), minutes / nullif(timed, 0), 0) as avg_session_duration_7d,
    coalesce(minutes_14d / nullif(timed_14d, 0), minutes / nullif(timed, 0), 0) as avg_session_duration_14d,
    coalesce(minutes_30d / nullif(timed_30d, 0), minutes / nullif(timed, 0), 0) as avg_session_duration_30d,
    coalesce(inbound_7d, 0)::integer as ib_call_count_7d,
    coalesce(inbound_14d, 0)::integer as ib_call_count_14d,
    coalesce(inbound_30d, 0)::integer as ib_call_count_30d,
    coalesce(negative_7d, 0)::integer as negative_calls_7d,
    coalesce(negative_14d, 0)::integer as negative_calls_14d,
    coalesce(negative_30d, 0)::integer as negative_calls_30d,
    coalesce(logins_7d, 0)::integer as login_count_7d,
    coalesce(logins_14d, 0)::integer as login_count_14d,
    coalesce(logins_30d, 0)::integer as login_count_30d,
    coalesce(messages_7d, 0)::integer as message_count_7d,
    coalesce(messages_14d, 0)::integer as message_count_14d,
    coalesce(messages_30d, 0)::integer as message_count_30d,
    coalesce(active_7d, 0)::integer as active_days_7d,
    coalesce(active_14d, 0)::integer as active_days_14d,
    coalesce(active_30d, 0)::integer as active_days_30d,
    coalesce(succeeded_7d / nullif(succeeded_7d + failed_7d, 0), succeeded / nullif(succeeded + failed, 0), 1.0)
        as payment_success_rate_7d,
    coalesce(succeeded_14d / nullif(succeeded_14d + failed_14d, 0), succeeded / nullif(succeeded + failed, 0), 1.0)
        as payment_success_rate_14d,
    coalesce(succeeded_30d / nullif(succeeded_30d + failed_30d, 0), succeeded / nullif(succeeded + failed, 0), 1.0)
        as payment_success_rate_30d,
    coalesce(amount_7d, 0)::double as payment_amount_7d,
    coalesce(amount_14d, 0)::double as payment_amount_14d,
    coalesce(amount_30d, 0)::double as payment_amount_30d,
    least(coalesce(datesub('day', last_completed, snapshot::timestamp), 999), 999)::integer as days_since_last_session,
    least(coalesce(datesub('day', last_login, snapshot::timestamp), 999), 999)::integer as days_since_last_login,
    least(coalesce(datesub('day', last_succeeded, snapshot::timestamp), 999), 999)::integer as days_since_last_payment,
    least(coalesce(datesub('day', last_inbound, snapshot::timestamp), 999), 999)::integer as days_since_last_ib_call,
    datesub('day', signed_up_at, snapshot::timestamp)::integer as customer_tenure_days,
    coalesce(completed, 0)::integer as total_sessions_lifetime,
    coalesce(amount, 0)::double as total_spend_lifetime,
    case tier when 'budget' then 0 when 'standard' then 1 when 'premium' then 2 else -1 end as subscription_tier,
    case channel when 'organic' then 0 when 'paid_google' then 1 when 'paid_facebook' then 2 when 'referral' then 3 else -1
    end as acquisition_channel,
    case grade when 'elementary' then 0 when 'middle_school' then 1 when 'high_school' then 2 when 'college' then 3 else -1
    end as grade_level,
    coalesce(code, -1)::integer as primary_subject,
    coalesce(consistency, 0) as tutor_consistency_score,
    coalesce(tutor_ratings.rating, 4.0) as primary_tutor_rating,
    coalesce(switches, 0)::integer as tutor_switch_count_30d,
    coalesce(response_30d / 1e6 / nullif(responses_30d, 0), response / 1e6 / nullif(responses, 0), 4.0 * 3600) / 3600
        as avg_tutor_response_time_hours,
    coalesce(completed > 0 and success_at < snapshot, false)::integer as first_session_was_success,
    case when session_count_30d = 0 then 0 else session_frequency_7d / session_frequency_30d - 1 end
        as session_velocity_change,
    avg_rating_7d - avg_rating_30d as rating_trend,
    login_count_7d - login_count_14d / 2.0::double as engagement_trend,
    payment_amount_7d / 7 - payment_amount_30d / 30 as spend_acceleration
from joined
left join subjects using (subject)
left join tutor_ratings using (tutor_id, snapshot);
