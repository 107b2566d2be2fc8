"""One technique a file: arrays in; a result, or a generator of steps, out. No gRPC here."""
