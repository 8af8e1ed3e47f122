"""devkyma: the embedded engine that speaks kyma's wire contract, on DataFusion and Parquet.

It knows nothing of the rest of the house and is reached over HTTP and Flight only. What it accepts
is at most what kyma accepts: a query that works here has to work there.
"""
