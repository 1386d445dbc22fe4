{#-
    The health index, 0 to 100: weights and full scales from seeds/health_score_weights.csv, one place for the index of
    today (features at D) and for the label (the 30 days from D).
-#}
{% macro health_index(
    sessions_per_week, days_since_last_session, average_rating, payment_success_rate, inbound_calls, tutor_consistency
) -%}
    (
        {{ health_weight('engagement') }}
        * least(1.0, {{ sessions_per_week }} / {{ health_weight('engagement', 'full_scale') }})
        + {{ health_weight('recency') }}
        * greatest(0.0, 1 - {{ days_since_last_session }} / {{ health_weight('recency', 'full_scale') }})
        + {{ health_weight('satisfaction') }}
        * (({{ average_rating }} - 1) / {{ health_weight('satisfaction', 'full_scale') }})
        + {{ health_weight('payment') }} * {{ payment_success_rate }}
        + {{ health_weight('support') }}
        * greatest(0.0, 1 - {{ inbound_calls }} / {{ health_weight('support', 'full_scale') }})
        + {{ health_weight('tutor') }} * {{ tutor_consistency }}
    )
{%- endmacro %}

{% macro health_weight(part, column='weight') -%}
    (select {{ column }} from {{ ref('health_score_weights') }} where part = '{{ part }}')
{%- endmacro %}

{#- The least health score of a tier (seeds/health_tiers.csv). -#}
{% macro tier_minimum(tier) -%}
    (select min_score from {{ ref('health_tiers') }} where tier = '{{ tier }}')
{%- endmacro %}
