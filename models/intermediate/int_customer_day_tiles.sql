{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set first_open_day = first_day_not_summed_up() %}
with facts as (
    {{ news(ref('int_customer_facts')) }}
),

-- A fact adds its quantities when it becomes visible and takes them back when a later version replaces it.
changes as (
    select
        customer_id,
        event_at,
        visible_from as changed_on,
        direction as sign,
        {{ quantities() | join(', ') }}
    from facts
    union all
    select
        customer_id,
        event_at,
        visible_until as changed_on,
        -direction as sign,
        {{ quantities() | join(', ') }}
    from facts
    where visible_until is not null
),

-- What comes late is seen by the snapshots to come, and changes none that is summed up.
dated as (
    select
        customer_id,
        sign,
        cast(event_at as date) as event_date,
        {{ first_midnight_from('event_at') }} as elapsed_from,
        {% if first_open_day -%}
        greatest(changed_on, cast('{{ first_open_day }}' as date)) as changed_on,
        {%- else -%}
        changed_on,
        {%- endif %}
        {{ quantities() | join(', ') }}
    from changes
),

-- What cancels out leaves no tile.
tiles as (
    select
        customer_id,
        event_date,
        elapsed_from,
        changed_on,
        {%- for quantity in quantities() %}
        cast(sum(sign * {{ quantity }}) as {{ quantity_type(quantity) }}) as {{ quantity }},
        {%- endfor %}
        {{ this_run() }} as recorded_in,
        cast(0 as integer) as known_active_days
    from dated
    group by customer_id, event_date, elapsed_from, changed_on
    having
        {%- for quantity in quantities() %}
        {{ 'or ' if not loop.first }}sum(sign * {{ quantity }}) <> 0
        {%- endfor %}
),

{%- if is_incremental() %}

-- The tiles that are there already for the same days
known_tiles as (
    select
        known.customer_id,
        known.event_date,
        known.elapsed_from,
        known.changed_on,
        {%- for quantity in quantities() %}
        {{ 'known.active_facts' if quantity == 'active_facts' else '0 as ' ~ quantity }},
        {%- endfor %}
        known.recorded_in,
        known.active_days as known_active_days
    from {{ this }} as known
    where
        exists (
            select 1 from tiles
            where
                tiles.customer_id = known.customer_id
                and tiles.event_date = known.event_date
        )
),
{%- endif %}

days as (
    select * from tiles
    {%- if is_incremental() %}
    union all
    select * from known_tiles
    {%- endif %}
),

-- Distinct active days add up too, once a tile says whether it turns its day active (1) or back (-1).
activity as (
    select
        *,
        coalesce(sum(active_facts) over (
            partition by customer_id, event_date
            order by changed_on, recorded_in, elapsed_from
            rows between unbounded preceding and 1 preceding
        ), 0) as active_facts_before
    from days
),

turns as (
    select
        *,
        case when active_facts_before + active_facts > 0 then 1 else 0 end
        - case when active_facts_before > 0 then 1 else 0 end
        - known_active_days as active_days
    from activity
),

-- A fact may turn a day active before one that was announced for later: then the later tile no longer does.
final as (
    select
        customer_id,
        event_date,
        elapsed_from,
        changed_on,
        {%- for quantity in quantities() %}
        {%- if quantity == 'active_facts' %}
        case when recorded_in = {{ this_run() }} then active_facts else 0 end as active_facts,
        {%- else %}
        {{ quantity }},
        {%- endif %}
        {%- endfor %}
        cast(active_days as integer) as active_days,
        {{ this_run() }} as recorded_in
    from turns
    where
        recorded_in = {{ this_run() }}
        or active_days <> 0
)

select * from final
