"""The reference bank: its CA (enrolment, renewal, revocation), a store, and an HTTP server. For integration and tests.

Needs the extra: ``pip install 'ushield-hw[bank]'``. Nothing in this room knows a token: its keys come in as a
:class:`~ushield_hw.bank.ca.authority.Signer`.
"""
