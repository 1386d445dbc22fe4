{{ config(post_hook="{{ warn_if_not_landed(this) }}") }}
{#- Everything dated hangs on this model, so a feed with too many rejected rows stops the build here. -#}
-- depends_on: {{ ref('rejection_summary') }}
with landed as (
    select
        source_table,
        max(last_landed_at) as last_landed_at
    from {{ ref('version_counts') }}
    group by source_table
),

landed_everywhere as (
    select
        cast(min(last_landed_at) as date) as landed_until,
        cast(max(last_landed_at) as date) as latest_landed_on
    from landed
),

-- The table that has been quiet for longest
quietest as (
    select min(landed.source_table) as quietest_table
    from landed
    inner join landed_everywhere
        on cast(landed.last_landed_at as date) = landed_everywhere.landed_until
),

customers as (
    select signed_up_at from {{ ref('stg_customers') }}
),

first_signup as (
    select min(signed_up_at) as first_signed_up_at from customers
),

final as (
    select
        {% if var('as_of') -%}
        cast('{{ var("as_of") }}' as date) as as_of,
        {%- else -%}
        landed_everywhere.landed_until as as_of,
        {%- endif %}
        landed_everywhere.landed_until,
        landed_everywhere.latest_landed_on,
        quietest.quietest_table,
        first_signup.first_signed_up_at
    from first_signup
    cross join landed_everywhere
    cross join quietest
)

select * from final
