with run as (
    select
        as_of,
        first_signed_up_at,
        {{ dbt.dateadd('day', var('first_snapshot_after_days') | int, 'first_signed_up_at') }} as first_snapshot_at
    from {{ ref('int_as_of') }}
),

-- More days than any marketplace's history holds; a fixed count keeps the series portable.
offsets as (
    {{ numbers_up_to(16384) }}
),

days as (
    select
        run.as_of,
        run.first_snapshot_at,
        {{ days_from('run.as_of', '-(offsets.generated_number - 1)') }} as snapshot_date
    from run
    cross join offsets
),

final as (
    select snapshot_date
    from days
    where
        snapshot_date = as_of
        or (
            snapshot_date >= first_snapshot_at
            and (
                -- Mondays, counted from one of them
                mod(
                    {{ dbt.datediff("cast('1900-01-01' as date)", 'snapshot_date', 'day') }}, 7
                ) = 0
                {%- if var('daily_snapshots_from') %}
                or snapshot_date >= cast('{{ var("daily_snapshots_from") }}' as date)
                {%- endif %}
            )
        )
)

select * from final
