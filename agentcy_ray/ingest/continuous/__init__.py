"""Continuous pipelines: records that come by themselves, by webhook, dropped file or OTLP."""
