with facts as (
    select * from {{ ref('int_customer_facts') }}
),

-- A fact adds its quantities when it becomes visible and takes them back when a later version replaces it.
changes as (
    select
        customer_id,
        cast(event_at as date) as event_date,
        visible_from as changed_on,
        {%- for kind in latest_kinds() %}
        case when visible_until is null and {{ is_of_kind(kind) }} then event_at end as latest_{{ kind }}_at,
        {%- endfor %}
        {{ quantities() | join(', ') }}
    from facts
    union all
    select
        customer_id,
        cast(event_at as date) as event_date,
        visible_until as changed_on,
        {%- for kind in latest_kinds() %}
        cast(null as timestamp) as latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in quantities() %}
        -{{ quantity }} as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from facts
    where visible_until is not null
),

tiles as (
    select
        customer_id,
        event_date,
        changed_on,
        {%- for kind in latest_kinds() %}
        max(latest_{{ kind }}_at) as latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in quantities() %}
        cast(sum({{ quantity }}) as {{ quantity_type(quantity) }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from changes
    group by customer_id, event_date, changed_on
),

-- Distinct active days add up too, once a tile says whether it turns its day active (1) or back (-1).
activity as (
    select
        *,
        coalesce(sum(active_facts) over (
            partition by customer_id, event_date
            order by changed_on
            rows between unbounded preceding and 1 preceding
        ), 0) as active_facts_before
    from tiles
),

final as (
    select
        customer_id,
        event_date,
        changed_on,
        {%- for kind in latest_kinds() %}
        latest_{{ kind }}_at,
        {%- endfor %}
        {%- for quantity in quantities() %}
        {{ quantity }},
        {%- endfor %}
        case when active_facts_before + active_facts > 0 then 1 else 0 end
        - case when active_facts_before > 0 then 1 else 0 end as active_days
    from activity
)

select * from final
