{#-
    Scoring in SQL. The functions come from scoring/ (registered by the dbt plugin scoring.plugin); each is called here and
    nowhere else, so another engine needs its own versions of these macros only.
-#}

{#- The five predictions for a whole row of customer_features, as a struct; the argument is the relation's alias. -#}
{% macro predict_customer_health(row) -%}
    {{ return(adapter.dispatch('predict_customer_health')(row)) }}
{%- endmacro %}

{% macro default__predict_customer_health(row) -%}
    {{ scoring_is_missing() }}
{%- endmacro %}

{% macro duckdb__predict_customer_health(row) -%}
    predict_customer_health({{ row }})
{%- endmacro %}

{#- The three greatest effects on the 30-day churn risk of such a row, as a struct. -#}
{% macro explain_churn_risk_30d(row) -%}
    {{ return(adapter.dispatch('explain_churn_risk_30d')(row)) }}
{%- endmacro %}

{% macro default__explain_churn_risk_30d(row) -%}
    {{ scoring_is_missing() }}
{%- endmacro %}

{% macro duckdb__explain_churn_risk_30d(row) -%}
    explain_churn_risk_30d({{ row }})
{%- endmacro %}

{#- A select with one row a release. -#}
{% macro released_models() -%}
    {{ return(adapter.dispatch('released_models')()) }}
{%- endmacro %}

{% macro default__released_models() -%}
    {{ scoring_is_missing() }}
{%- endmacro %}

{% macro duckdb__released_models() -%}
    select unnest(released_models(), recursive := true)
{%- endmacro %}

{% macro scoring_is_missing() %}
    {{ exceptions.raise_compiler_error(
        'The models score inside DuckDB; for ' ~ target.type ~ ' the macros in macros/scoring.sql have yet to be written.'
    ) }}
{% endmacro %}

{#-
    Whether this run can score. Warns once, with the remedy, when no model was ever trained; stops when model_versions
    is not of the champion that the scoring functions hold, since predictions would carry the wrong version.
-#}
{% macro check_champion(model_versions) %}
    {%- if execute and flags.WHICH in ['run', 'build'] and not flags.EMPTY -%}
        {%- set recorded = run_query('select model_version from ' ~ model_versions ~ ' where is_champion') -%}
        {%- set held = run_query(
            'select model_version from (' ~ released_models() ~ ') as releases where is_champion'
        ) -%}
        {%- set recorded = recorded.columns[0].values() | join -%}
        {%- set held = held.columns[0].values() | join -%}
        {%- if recorded != held -%}
            {{ exceptions.raise_compiler_error(
                'predictions.model_versions is out of date (champion there: ' ~ (recorded or 'none') ~ ', in MODELS_DIR: '
                ~ (held or 'none') ~ "). Run 'dbt build --select predictions+'."
            ) }}
        {%- elif not held -%}
            {%- do exceptions.warn(
                "No model has been trained yet, so the prediction tables stay empty. Train with 'python -m training', "
                ~ "then score with 'python -m scoring'; 'make run' does both."
            ) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- How a tier (by its least score) compares with an earlier one; null when either is unknown. -#}
{% macro tier_change(min_score_now, min_score_before) -%}
    case
        when {{ min_score_now }} > {{ min_score_before }} then 'improved'
        when {{ min_score_now }} < {{ min_score_before }} then 'worsened'
        when {{ min_score_now }} = {{ min_score_before }} then 'unchanged'
    end
{%- endmacro %}
