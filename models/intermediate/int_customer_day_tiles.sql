{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set first_open_day = first_day_not_summed_up() %}
{#- Two CTEs for two readers: DuckDB keeps the rows of one that is read twice. -#}
with facts as (
    {{ news(ref('int_customer_facts')) }}
),

replaced_facts as (
    select *
    from (
        {{ news(ref('int_customer_facts')) }}
    ) as facts
    where visible_until is not null
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
    from replaced_facts
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

all_tiles as (
    select * from tiles
    {%- if is_incremental() %}
    union all
    select * from known_tiles
    {%- endif %}
),

-- Most days have one tile: that of what was known by the next midnight. Only days with another can have several.
days_with_others as (
    select distinct
        customer_id,
        event_date
    from all_tiles
    where
        changed_on <> {{ days_from('event_date', 1) }}
        or elapsed_from <> {{ days_from('event_date', 1) }}
        or recorded_in <> {{ this_run() }}
),

-- Distinct active days add up too, once a tile says whether it turns its day active (1) or back (-1).
activity as (
    select
        all_tiles.*,
        coalesce(sum(all_tiles.active_facts) over (
            partition by all_tiles.customer_id, all_tiles.event_date
            order by all_tiles.changed_on, all_tiles.recorded_in, all_tiles.elapsed_from
            rows between unbounded preceding and 1 preceding
        ), 0) as active_facts_before
    from all_tiles
    inner join days_with_others
        on
            all_tiles.customer_id = days_with_others.customer_id
            and all_tiles.event_date = days_with_others.event_date
    union all
    select
        all_tiles.*,
        0 as active_facts_before
    from all_tiles
    where
        not exists (
            select 1 from days_with_others
            where
                all_tiles.customer_id = days_with_others.customer_id
                and all_tiles.event_date = days_with_others.event_date
        )
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
