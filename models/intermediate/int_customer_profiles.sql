{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set attributes = ['subscription_tier', 'acquisition_channel', 'grade_level'] -%}
with spine as (
    select
        customer_id,
        snapshot_date
    from {{ ref('int_customer_sums') }}
    where snapshot_date in ({{ missing_snapshots() }})
),

-- Every version is a fact of its own: a later one for an earlier moment does not undo the one that took effect after.
profile_versions as (
    select
        customer_id,
        updated_at,
        loaded_at,
        {{ attributes | join(', ') }},
        {{ visible_from('updated_at') }} as visible_from
    from {{ ref('stg_customers') }}
),

codes as (
    select
        attribute,
        value,
        code
    from {{ ref('profile_codes') }}
),

profiles as (
    select *
    from (
        select
            spine.customer_id,
            spine.snapshot_date,
            {%- for attribute in attributes %}
            profile_versions.{{ attribute }},
            {%- endfor %}
            row_number() over (
                partition by spine.customer_id, spine.snapshot_date
                order by profile_versions.updated_at desc nulls last, profile_versions.loaded_at desc nulls last
            ) as recency
        from spine
        left join profile_versions
            on
                spine.customer_id = profile_versions.customer_id
                and spine.snapshot_date >= profile_versions.visible_from
    ) as ranked
    where recency = 1
),

final as (
    select
        profiles.customer_id,
        profiles.snapshot_date,
        cast(profiles.snapshot_date as timestamp) as feature_timestamp,
        {%- for attribute in attributes %}
        coalesce({{ attribute }}_codes.code, -1) as {{ attribute }}{{ ',' if not loop.last }}
        {%- endfor %}
    from profiles
    {%- for attribute in attributes %}
    left join codes as {{ attribute }}_codes
        on
            profiles.{{ attribute }} = {{ attribute }}_codes.value
            and {{ attribute }}_codes.attribute = '{{ attribute }}'
    {%- endfor %}
)

select * from final
