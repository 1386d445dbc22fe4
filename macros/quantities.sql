{#-
    The additive quantities of a customer a day, from which windows and lifetime sums are made. `facts` of
    int_customer_facts carry them; tiles, windows and labels add them up. Grouped by the fact that carries them.
-#}
{% macro quantities() %}
    {{ return([
        'completed_sessions', 'customer_cancellations', 'no_shows', 'resolved_sessions',
        'duration_minutes', 'timed_sessions',
        'rating_stars', 'ratings',
        'response_microseconds', 'confirmations',
        'inbound_calls', 'negative_calls',
        'logins', 'messages', 'active_facts',
        'succeeded_payments', 'failed_payments', 'net_amount',
    ]) }}
{% endmacro %}

{#- Those whose sum over everything visible is a feature or the default of one. -#}
{% macro lifetime_quantities() %}
    {{ return([
        'completed_sessions', 'duration_minutes', 'timed_sessions', 'rating_stars', 'ratings',
        'response_microseconds', 'confirmations', 'succeeded_payments', 'failed_payments', 'net_amount',
    ]) }}
{% endmacro %}

{#- The kinds of fact whose latest moment counts. -#}
{% macro latest_kinds() %}
    {{ return(['completed_session', 'login', 'succeeded_payment', 'inbound_call', 'activity']) }}
{% endmacro %}

{#- Days that the features look back, shortest first. -#}
{% macro window_days() %}
    {{ return([7, 14, 30]) }}
{% endmacro %}

{% macro quantity_type(quantity) -%}
    {{ 'decimal(38, 2)' if quantity == 'net_amount' else 'bigint' }}
{%- endmacro %}

{#- A fact's quantities in the fixed order: those given as {name: expression}, all others 0. -#}
{% macro carried_quantities(given) -%}
    {%- for quantity in quantities() %}
    cast({{ given.get(quantity, '0') }} as {{ quantity_type(quantity) }}) as {{ quantity }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{#- Whether a row of int_customer_facts is of a kind of latest_kinds(). -#}
{% macro is_of_kind(kind) -%}
    {{ 'is_activity' if kind == 'activity' else "latest_kind = '" ~ kind ~ "'" }}
{%- endmacro %}
