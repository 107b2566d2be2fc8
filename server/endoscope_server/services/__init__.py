"""The gRPC services: messages to validated parameters, steps and results to messages. No mathematics."""
