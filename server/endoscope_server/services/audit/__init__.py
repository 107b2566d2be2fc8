"""What AuditService makes of requests, and of what an audit finds."""
