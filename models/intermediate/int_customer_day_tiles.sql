{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}
{%- set last_run = last_run_held(this) %}
{%- set first_open_day = first_day_not_summed_up() %}
{#-
    Each version of a session brings its confirmation again and takes back that of the version before, so that most of these
    changes cancel out. They are added up first, by themselves: two sums a group instead of all. And a CTE a reading: DuckDB
    keeps the rows of one that is read twice. A night has few facts, and finding them costs more; it reads them once.
#}
{%- set kinds = {'other': 'true'} if is_incremental() else
    {'confirmation': 'facts.confirmations <> 0', 'other': 'coalesce(facts.confirmations, 0) = 0'} %}
{%- set confirmed_quantities = ['response_microseconds', 'confirmations'] %}
with steps as (
    select 1 as step
    union all
    select -1 as step
),

-- A fact adds its quantities when it becomes visible and takes them back when a later version replaces it.
{%- for kind, condition in kinds.items() %}
{{ kind }}_changes as (
    select
        facts.customer_key,
        facts.event_at,
        case when steps.step = 1 then facts.visible_from else facts.visible_until end as changed_on,
        facts.sign * steps.step as sign,
        {%- for quantity in quantities() %}
        facts.{{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from (
        {{ news(ref('int_customer_facts'), last_run) }}
    ) as facts
    cross join steps
    where
        {{ condition }}
        and (steps.step = 1 or facts.visible_until is not null)
),

-- What comes late is seen by the snapshots to come, and changes none that is summed up.
dated_{{ kind }}_changes as (
    select
        customer_key,
        cast(event_at as date) as event_date,
        {{ first_midnight_from('event_at') }} as elapsed_from,
        {% if first_open_day -%}
        greatest(changed_on, cast('{{ first_open_day }}' as date)) as changed_on,
        {%- else -%}
        changed_on,
        {%- endif %}
        {%- for quantity in quantities() %}
        cast(sign * {{ quantity }} as {{ quantity_type(quantity) }}) as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ kind }}_changes
),

{% endfor -%}
{%- if 'confirmation' in kinds %}
confirmation_sums as (
    select
        customer_key,
        event_date,
        elapsed_from,
        changed_on,
        {%- for quantity in confirmed_quantities %}
        {{ sum_of(quantity, 'changes') }} as {{ quantity }}{{ ',' if not loop.last }}
        {%- endfor %}
    from dated_confirmation_changes as changes
    group by customer_key, event_date, elapsed_from, changed_on
),
{%- endif %}

dated_changes as (
    select
        customer_key,
        event_date,
        elapsed_from,
        changed_on,
        {{ quantities() | join(', ') }}
    from dated_other_changes
    {%- if 'confirmation' in kinds %}
    union all
    select
        customer_key,
        event_date,
        elapsed_from,
        changed_on,
        {{ carried_quantities({'response_microseconds': 'response_microseconds', 'confirmations': 'confirmations'}) }}
    from confirmation_sums
    where
        confirmations <> 0
        or response_microseconds <> 0
    {%- endif %}
),

-- What cancels out leaves no tile.
tiles as (
    select
        customer_key,
        event_date,
        elapsed_from,
        changed_on,
        {%- for quantity in quantities() %}
        cast({{ sum_of(quantity, 'changes') }} as {{ quantity_type(quantity) }}) as {{ quantity }},
        {%- endfor %}
        {{ this_run() }} as recorded_in,
        cast(0 as integer) as known_active_days
    from dated_changes as changes
    group by customer_key, event_date, elapsed_from, changed_on
    having
        {%- for quantity in quantities() %}
        {{ 'or ' if not loop.first }}{{ sum_of(quantity, 'changes') }} <> 0
        {%- endfor %}
),

{%- if is_incremental() %}

-- The tiles that are there already for the same days
known_tiles as (
    select
        known.customer_key,
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
                tiles.customer_key = known.customer_key
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
        customer_key,
        event_date
    from all_tiles
    where
        changed_on <> {{ days_from('event_date', 1) }}
        or elapsed_from <> {{ days_from('event_date', 1) }}
        or recorded_in <> {{ this_run() }}
),

tiles_with_others as (
    select all_tiles.*
    from all_tiles
    inner join days_with_others
        on
            all_tiles.customer_key = days_with_others.customer_key
            and all_tiles.event_date = days_with_others.event_date
),

-- Distinct active days add up too, once a tile says whether it turns its day active (1) or back (-1).
activity as (
    select
        *,
        coalesce(sum(active_facts) over (
            partition by customer_key, event_date
            order by changed_on, recorded_in, elapsed_from
            rows between unbounded preceding and 1 preceding
        ), 0) as active_facts_before
    from ({{ few_rows('tiles_with_others') }}) as tiles_with_others
    union all
    select
        all_tiles.*,
        0 as active_facts_before
    from all_tiles
    where
        not exists (
            select 1 from days_with_others
            where
                all_tiles.customer_key = days_with_others.customer_key
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
        customer_key,
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
{%- if not is_incremental() %}
{#- Whoever reads the last days then reads no others. A night's own tiles are of few days. #}
order by event_date
{%- endif %}
