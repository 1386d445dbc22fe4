{#-
    Scoring in SQL. In DuckDB the functions of scoring/ score (registered by the dbt plugin scoring.plugin); each is called
    here and nowhere else. Any other engine scores with the SQL that scoring/portable.py writes (portable_scoring.sql).
-#}

{#-
    A select of the predictions and the reasons for each row of `relation` (the alias of rows of customer_features), with
    the row's keys and total_sessions_lifetime.
-#}
{% macro scored_rows(relation) -%}
    {{ return(adapter.dispatch('scored_rows')(relation)) }}
{%- endmacro %}

{% macro duckdb__scored_rows(relation) -%}
    select
        customer_id,
        feature_timestamp,
        total_sessions_lifetime,
        prediction.churn_risk_14d,
        prediction.churn_risk_30d,
        prediction.health_score,
        prediction.session_velocity,
        prediction.first_session_success,
        explanation.reason_1,
        explanation.reason_1_effect,
        explanation.reason_2,
        explanation.reason_2_effect,
        explanation.reason_3,
        explanation.reason_3_effect
    from (
        select
            {{ relation }}.customer_id,
            {{ relation }}.feature_timestamp,
            {{ relation }}.total_sessions_lifetime,
            predict_customer_health({{ relation }}) as prediction,
            explain_churn_risk_30d({{ relation }}) as explanation
        from {{ relation }}
    ) as answers
{%- endmacro %}

{#- There is no portable form of the reasons. -#}
{% macro default__scored_rows(relation) -%}
    select
        rows_to_score.customer_id,
        rows_to_score.feature_timestamp,
        rows_to_score.total_sessions_lifetime,
        answers.churn_risk_14d,
        answers.churn_risk_30d,
        answers.health_score,
        answers.session_velocity,
        answers.first_session_success,
        {%- for number in [1, 2, 3] %}
        cast(null as {{ api.Column.translate_type('string') }}) as reason_{{ number }},
        cast(null as {{ api.Column.translate_type('float') }}) as reason_{{ number }}_effect{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ relation }} as rows_to_score
    inner join (
        {{ portable_predictions(relation) }}
    ) as answers
        on
            rows_to_score.customer_id = answers.customer_id
            and rows_to_score.feature_timestamp = answers.feature_timestamp
{%- endmacro %}

{#- A select with one row a release; of portable ones only the champion is known. -#}
{% macro released_models() -%}
    {{ return(adapter.dispatch('released_models')()) }}
{%- endmacro %}

{% macro default__released_models() -%}
    {{ portable_releases() }}
{%- endmacro %}

{% macro duckdb__released_models() -%}
    select unnest(released_models(), recursive := true)
{%- endmacro %}

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
