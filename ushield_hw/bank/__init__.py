"""The reference bank: CA (enrolment, renewal, revocation), database and HTTP server. For integration and tests.

Needs the extra: ``pip install 'ushield-hw[bank]'``. This package does not access tokens: its keys are passed in as
:class:`~ushield_hw.bank.ca.authority.Signer`.
"""
