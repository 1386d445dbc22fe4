{#- Who lapses within 14 days lapses within 30. -#}
{% test churn_labels_in_order(model) %}
    select *
    from {{ model }}
    where label_churn_risk_14d > label_churn_risk_30d
{% endtest %}
