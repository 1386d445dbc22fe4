{#-
    The five predictions in plain SQL, for an engine without Python: a select of customer_id, feature_timestamp and the
    predictions of each row of `relation` (a CTE or a ref with the columns of customer_features). The engine's version of
    the macro holds the champion's trees and is written by the generator, once a release:

        python -m scoring.portable --dialect spark --dbt-macro --out macros/portable/spark.sql
-#}
{% macro portable_predictions(relation) -%}
    {{ return(adapter.dispatch('portable_predictions')(relation)) }}
{%- endmacro %}

{% macro default__portable_predictions(relation) -%}
    {{ exceptions.raise_compiler_error(
        "There is no portable SQL for " ~ target.type ~ " yet: write it with 'python -m scoring.portable --dialect "
        ~ target.type ~ " --dbt-macro --out macros/portable/" ~ target.type ~ ".sql'."
    ) }}
{%- endmacro %}
