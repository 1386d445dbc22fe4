{#-
    The surrogate key of a customer: a number made of customer_id, by which tiles and the sums made of them are grouped, joined
    and searched in a fraction of the time that texts take. A test of base_customer_arrivals makes sure that no two customers
    share one; a build stops before another version of DuckDB could number otherwise (duckdb__stop_if_numbered_otherwise).
-#}
{% macro customer_key(customer_id) -%}
    {{ return(adapter.dispatch('customer_key')(customer_id)) }}
{%- endmacro %}

{% macro default__customer_key(customer_id) -%}
    {{ dbt.hash(customer_id) }}
{%- endmacro %}

{#- Without the sign bit, which the type of other integers has not. -#}
{% macro duckdb__customer_key(customer_id) -%}
    cast(hash({{ customer_id }}) >> 1 as bigint)
{%- endmacro %}
