{#-
    The two clocks (docs/decisions.md, "Time"). A snapshot is named by its midnight D. What is known before D is seen at
    D; so a moment t is first seen at the first midnight after t, and all clocks below are such midnights, as dates.
-#}

{#- The first midnight strictly after a moment: the first snapshot that can see it. -#}
{% macro first_midnight_after(moment) -%}
    cast({{ dbt.dateadd('day', 1, 'cast(' ~ moment ~ ' as date)') }} as date)
{%- endmacro %}

{#- The first midnight at or after a moment: whole days since the moment are days since this date. -#}
{% macro first_midnight_from(moment) -%}
    case
        when {{ moment }} > cast({{ moment }} as date) then {{ first_midnight_after(moment) }}
        else cast({{ moment }} as date)
    end
{%- endmacro %}

{#- When a version was delivered. Without `loaded_at` always: earlier than anything that happens. -#}
{% macro delivered_at(loaded_at) -%}
    coalesce({{ loaded_at }}, cast('1900-01-01' as timestamp))
{%- endmacro %}

{#- The first snapshot that can see a version, by its delivery less the grace. -#}
{% macro first_midnight_delivered(loaded_at) -%}
    {{ first_midnight_after(dbt.dateadd('hour', -(var('arrival_grace_hours') | int), delivered_at(loaded_at))) }}
{%- endmacro %}

{#-
    The first snapshot that no longer sees this version, because a later one is delivered; null for the latest. Not simply
    the next one's: a version that changed hands waits for its customer, and one after it may not. Rows that are no
    version have no `in_force_from`, and so no part in this.
-#}
{% macro in_force_until(table_name) -%}
    min(in_force_from) over (
        partition by {{ raw_key(table_name) | join(', ') }}
        order by {{ version_order(table_name) }}
        rows between 1 following and unbounded following
    )
{%- endmacro %}

{#- Versions of a row, oldest first. -#}
{% macro version_order(table_name) -%}
    loaded_at nulls first
    {%- if 'updated_at' in raw_column_names(table_name) %}, updated_at nulls first{% endif %}
{%- endmacro %}

{#- When a fact was known: when it happened, or when the first version that carries it came, less the grace. -#}
{% macro known_at(event_at, first_delivered_at) -%}
    greatest({{ event_at }}, {{ dbt.dateadd('hour', -(var('arrival_grace_hours') | int), first_delivered_at) }})
{%- endmacro %}

{#- The first snapshot that sees a fact of a version. -#}
{% macro visible_from(event_at) -%}
    greatest(in_force_from, {{ first_midnight_after(event_at) }})
{%- endmacro %}

{#- Whether a snapshot sees a fact at all: it became visible before a later version replaced it. -#}
{% macro is_ever_visible(event_at) -%}
    (in_force_until is null or {{ visible_from(event_at) }} < in_force_until)
{%- endmacro %}

{#- Whether the snapshot D sees a row that carries the columns visible_from and visible_until. -#}
{% macro is_visible_at(snapshot_date, relation) -%}
    (
        {{ relation }}.visible_from <= {{ snapshot_date }}
        and ({{ relation }}.visible_until is null or {{ relation }}.visible_until > {{ snapshot_date }})
    )
{%- endmacro %}

{#- Whole days (24 hours each, rounded down) from a moment to a midnight. -#}
{% macro whole_days(moment, midnight) -%}
    (
        {{ dbt.datediff('cast(' ~ moment ~ ' as date)', 'cast(' ~ midnight ~ ' as date)', 'day') }}
        - case when {{ moment }} > cast({{ moment }} as date) then 1 else 0 end
    )
{%- endmacro %}

{#- Midnights w days before or after a snapshot date. -#}
{% macro days_from(snapshot_date, days) -%}
    cast({{ dbt.dateadd('day', days, snapshot_date) }} as date)
{%- endmacro %}

{#- The later of two days or moments, either of which may be null. -#}
{% macro later_of(one, other) -%}
    greatest(coalesce({{ one }}, {{ other }}), coalesce({{ other }}, {{ one }}))
{%- endmacro %}
