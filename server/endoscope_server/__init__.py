"""The Endoscope server: two engines, the techniques built on them, and the gRPC services that offer them."""
