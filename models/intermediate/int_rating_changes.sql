{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set last_run = last_run_held(this) %}
{#- Two readings of all ratings, because DuckDB keeps the rows of a CTE that is read twice; one of a night's. -#}
{%- set new_ratings %}
    {{ news(ref('int_session_ratings'), last_run) }}
{%- endset %}
with ratings as (
    {{ new_ratings }}
),

replaced_ratings as (
    select *
    from {{ 'ratings' if is_incremental() else '(' ~ new_ratings ~ ') as ratings' }}
    where visible_until is not null
),

-- A rating counts from when it becomes visible until a later version replaces it.
changes as (
    select
        {{ session_key('session_id') }} as session_key,
        {{ customer_key('customer_id') }} as customer_key,
        tutor_id,
        visible_from as changed_on,
        sign * rating as rating_stars,
        sign as ratings
    from ratings
    union all
    select
        {{ session_key('session_id') }} as session_key,
        {{ customer_key('customer_id') }} as customer_key,
        tutor_id,
        visible_until as changed_on,
        -sign * rating as rating_stars,
        -sign as ratings
    from replaced_ratings
),

-- A rating that a later version repeats leaves no change.
final as (
    select
        session_key,
        customer_key,
        tutor_id,
        changed_on,
        cast(sum(rating_stars) as integer) as rating_stars,
        cast(sum(ratings) as integer) as ratings,
        {{ this_run() }} as recorded_in
    from changes
    group by session_key, customer_key, tutor_id, changed_on
    having
        sum(rating_stars) <> 0
        or sum(ratings) <> 0
)

select * from final
