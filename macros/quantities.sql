{#-
    The additive quantities of a customer a day, from which windows and lifetime sums are made. `facts` of
    int_customer_facts carry them; tiles, windows and labels add them up. Grouped by the fact that carries them;
    active_facts make a day active, signs_of_life keep a customer in scope.
-#}
{% macro quantities() %}
    {{ return([
        'completed_sessions', 'customer_cancellations', 'no_shows', 'resolved_sessions',
        'duration_minutes', 'timed_sessions',
        'rating_stars', 'ratings',
        'response_microseconds', 'confirmations',
        'inbound_calls', 'negative_calls',
        'logins', 'messages',
        'succeeded_payments', 'failed_payments', 'net_amount',
        'active_facts', 'signs_of_life',
    ]) }}
{% endmacro %}

{#- Those whose sum over everything visible is a feature or the default of one. -#}
{% macro lifetime_quantities() %}
    {{ return([
        'completed_sessions', 'duration_minutes', 'timed_sessions', 'rating_stars', 'ratings',
        'response_microseconds', 'confirmations', 'succeeded_payments', 'failed_payments', 'net_amount',
    ]) }}
{% endmacro %}

{#- Those whose sum over the last so many days is a feature or part of one. -#}
{% macro windowed_quantities(days) %}
    {%- set only_longest = ['response_microseconds', 'confirmations'] -%}
    {%- set never = ['active_facts', 'signs_of_life'] -%}
    {%- set others = quantities() | reject('in', never + ([] if days == window_days()[-1] else only_longest)) | list -%}
    {{ return(others + ['active_days']) }}
{% endmacro %}

{#-
    The kinds of fact whose latest day counts, and the quantity that says how many there were on a day. A day is the latest
    as long as its sum is positive, so a fact that is taken back takes its day along.
-#}
{% macro latest_kinds() %}
    {{ return({
        'completed_session': 'completed_sessions',
        'login': 'logins',
        'succeeded_payment': 'succeeded_payments',
        'inbound_call': 'inbound_calls',
        'activity': 'signs_of_life',
    }) }}
{% endmacro %}

{#-
    The day that a tile stands for as the latest of a kind: days since something count from the midnight after it, and a
    customer stays in scope by the day of the event.
-#}
{% macro day_of_kind(kind) -%}
    {{ 'event_date' if kind == 'activity' else 'elapsed_from' }}
{%- endmacro %}

{#- Whether a tile takes back more facts of a kind whose latest day counts than it brings. -#}
{% macro takes_facts_back() -%}
    least({{ latest_kinds().values() | join(', ') }}) < 0
{%- endmacro %}

{#- Days that the features look back, shortest first. -#}
{% macro window_days() %}
    {{ return([7, 14, 30]) }}
{% endmacro %}

{#- Small where there are many rows: a day's tile. -#}
{% macro quantity_type(quantity) -%}
    {{ {'net_amount': 'decimal(18, 2)', 'response_microseconds': 'bigint'}.get(quantity, 'integer') }}
{%- endmacro %}

{#- Wide enough for a sum of tiles. What does not fit stops the build. -#}
{% macro sum_type(quantity) -%}
    {{ {'net_amount': 'decimal(18, 2)', 'response_microseconds': 'bigint', 'duration_minutes': 'bigint'}
        .get(quantity, 'integer') }}
{%- endmacro %}

{#- The sum of a quantity in a group; exact. -#}
{% macro sum_of(quantity, relation) -%}
    {{ return(adapter.dispatch('sum_of')(quantity, relation)) }}
{%- endmacro %}

{% macro default__sum_of(quantity, relation) -%}
    sum({{ relation }}.{{ quantity }})
{%- endmacro %}

{#-
    Behind a join DuckDB keeps 32 bytes for the sum of an integer, and 16 for that of a double: a third of the memory of
    int_customer_sums. Whole numbers add up exactly in doubles below 2^53: 285 years in microseconds.
-#}
{% macro duckdb__sum_of(quantity, relation) -%}
    {%- if sum_type(quantity) in ('integer', 'bigint') -%}
    sum(cast({{ relation }}.{{ quantity }} as double))
    {%- else -%}
    sum({{ relation }}.{{ quantity }})
    {%- endif -%}
{%- endmacro %}

{#- A fact's quantities in the fixed order: those given as {name: expression}, all others 0. -#}
{% macro carried_quantities(given) -%}
    {%- for quantity in quantities() %}
    cast({{ given.get(quantity, '0') }} as {{ quantity_type(quantity) }}) as {{ quantity }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}
