"""The browser page, and Connect and gRPC-Web for whoever speaks them: an optional extra of the server."""
