{#-
    Surrogate keys: numbers made of ids, by which tables are grouped, joined and searched in a fraction of the time that texts
    take. A test of base_customer_arrivals makes sure that no two customers share one; of sessions it only tells apart those of
    the same customer. A build stops before another version of DuckDB could number otherwise
    (duckdb__stop_if_numbered_otherwise).
-#}
{% macro customer_key(customer_id) -%}
    {{ return(adapter.dispatch('surrogate_key')(customer_id)) }}
{%- endmacro %}

{% macro session_key(session_id) -%}
    {{ return(adapter.dispatch('surrogate_key')(session_id)) }}
{%- endmacro %}

{% macro default__surrogate_key(id) -%}
    {{ dbt.hash(id) }}
{%- endmacro %}

{#- Without the sign bit, which the type of other integers has not. -#}
{% macro duckdb__surrogate_key(id) -%}
    cast(hash({{ id }}) >> 1 as bigint)
{%- endmacro %}
