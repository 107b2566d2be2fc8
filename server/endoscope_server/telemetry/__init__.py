"""What a server tells of itself: logs, metrics, traces. Knows nothing of gRPC, models and jobs."""
