{#-
    The champion in plain SQL, for a warehouse that runs no Python. The engine's versions of these macros hold its trees and
    are written anew after each training:

        python -m scoring.portable --dialect snowflake --dbt-macros --out macros/portable/snowflake.sql
-#}

{#- A select of customer_id, feature_timestamp and the five predictions for each row of `relation`. -#}
{% macro portable_predictions(relation) -%}
    {{ return(adapter.dispatch('portable_predictions')(relation)) }}
{%- endmacro %}

{% macro default__portable_predictions(relation) -%}
    {{ portable_sql_is_missing() }}
{%- endmacro %}

{#- A select of the champion's row of model_versions. -#}
{% macro portable_releases() -%}
    {{ return(adapter.dispatch('portable_releases')()) }}
{%- endmacro %}

{% macro default__portable_releases() -%}
    {{ portable_sql_is_missing() }}
{%- endmacro %}

{#- Not while dbt only parses: the rest of the project can be built without. -#}
{% macro portable_sql_is_missing() %}
    {%- if execute -%}
        {{ exceptions.raise_compiler_error(
            "There is no portable SQL for " ~ target.type ~ " yet: write it with 'python -m scoring.portable --dialect "
            ~ target.type ~ " --dbt-macros --out macros/portable/" ~ target.type ~ ".sql'."
        ) }}
    {%- endif -%}
{% endmacro %}
