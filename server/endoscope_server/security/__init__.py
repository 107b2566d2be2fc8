"""Who may do what: tokens with roles, and the certificates of TLS. Knows nothing of gRPC's methods."""

from endoscope_server.security.certificates import Certificates
from endoscope_server.security.tokens import Caller, Role, TokenFile, entry, new_token

__all__ = ["Caller", "Certificates", "Role", "TokenFile", "entry", "new_token"]
