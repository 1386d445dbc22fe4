{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{#- Two CTEs for two readers: DuckDB keeps the rows of one that is read twice. -#}
with ratings as (
    {{ news(ref('int_session_ratings')) }}
),

replaced_ratings as (
    select *
    from (
        {{ news(ref('int_session_ratings')) }}
    ) as ratings
    where visible_until is not null
),

-- A rating counts from when it becomes visible until a later version replaces it.
changes as (
    select
        session_id,
        customer_id,
        tutor_id,
        visible_from as changed_on,
        direction * rating as rating_stars,
        direction as ratings
    from ratings
    union all
    select
        session_id,
        customer_id,
        tutor_id,
        visible_until as changed_on,
        -direction * rating as rating_stars,
        -direction as ratings
    from replaced_ratings
),

-- A rating that a later version repeats leaves no change.
final as (
    select
        session_id,
        customer_id,
        tutor_id,
        changed_on,
        cast(sum(rating_stars) as integer) as rating_stars,
        cast(sum(ratings) as integer) as ratings,
        {{ this_run() }} as recorded_in
    from changes
    group by session_id, customer_id, tutor_id, changed_on
    having
        sum(rating_stars) <> 0
        or sum(ratings) <> 0
)

select * from final
