{{ config(materialized='ephemeral') }}
{%- set attributes = ['subscription_tier', 'acquisition_channel', 'grade_level'] -%}
with profile_versions as (
    select
        {{ customer_key('customer_id') }} as customer_key,
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

-- Every version is a fact of its own: a later one for an earlier moment does not undo the one that took effect after.
versions_in_force as (
    select
        *,
        min(visible_from) over (
            partition by customer_key
            order by updated_at nulls first, loaded_at nulls first
            rows between 1 following and unbounded following
        ) as visible_until
    from profile_versions
),

final as (
    select
        versions_in_force.customer_key,
        versions_in_force.visible_from,
        versions_in_force.visible_until,
        {%- for attribute in attributes %}
        {{ attribute }}_codes.code as {{ attribute }}{{ ',' if not loop.last }}
        {%- endfor %}
    from versions_in_force
    {%- for attribute in attributes %}
    left join codes as {{ attribute }}_codes
        on
            versions_in_force.{{ attribute }} = {{ attribute }}_codes.value
            and {{ attribute }}_codes.attribute = '{{ attribute }}'
    {%- endfor %}
    where
        versions_in_force.visible_until is null
        or versions_in_force.visible_from < versions_in_force.visible_until
)

select * from final
