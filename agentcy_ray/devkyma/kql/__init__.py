"""kyma's own KQL: a small closed surface whose clauses are collected into one SQL statement.

It is deliberately no more than kyma has; the product's KQL is planned elsewhere, into SQL.
"""
