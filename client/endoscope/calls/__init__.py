"""Every method of the contract, described once: what is sent, and what becomes of the answer.

The functions here only build; :mod:`endoscope.client` and :mod:`endoscope.aio` carry out.
"""
