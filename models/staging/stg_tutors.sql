with versions as (
    {{ accepted_versions('raw_tutors', ref('base_tutors')) }}
),

clocked as (
    select
        *,
        {{ first_midnight_delivered('loaded_at') }} as in_force_from
    from versions
),

final as (
    select
        *,
        {{ in_force_until('raw_tutors') }} as in_force_until
    from clocked
)

select * from final
