"""What calls give: frozen dataclasses whose attributes bear the contract's names.

Arrays are numpy's and read-only, pictures are PIL images (:class:`endoscope.Picture`), enums are short
lower-case names, times are in UTC. What the server left out is None, an empty tuple or an empty string.
"""
