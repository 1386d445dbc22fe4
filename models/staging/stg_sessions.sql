with records as (
    select * from {{ ref('base_sessions') }}
    where {{ is_current_version() }}
),

final as (
    select
        {{ raw_column_names('raw_sessions') | join(', ') }},
        in_force_from,
        in_force_until
    from records
)

select * from final
