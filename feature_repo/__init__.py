"""The Feast feature repository of the customer-health feature store.

One definition drives everything here: ``models/features/_features.yml``, the dbt YAML of the 59 features.
``catalog`` reads it, ``build`` turns it into Feast objects, ``definitions`` shows those to ``feast apply``,
``store`` opens, applies and materializes, ``offline`` reads training rows, ``check`` compares Feast with what
dbt builds.
"""
