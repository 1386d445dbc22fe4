with records as (
    select * from {{ ref('base_app_events') }}
    where {{ is_current_version() }}
),

final as (
    select
        {{ raw_column_names('raw_app_events') | join(', ') }},
        in_force_from,
        in_force_until
    from records
)

select * from final
