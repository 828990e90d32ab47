"""Tables of the CA: customers, one-time codes, certificates, renewal documents, CRLs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    _code_failures()
    _crls()
    _customers()
    _register()
    _certificates()
    _enrolment_codes()
    _renewal_documents()
    op.execute("INSERT INTO register (id, crl_number, revocations) VALUES (1, 0, 0)")


def _code_failures() -> None:
    op.create_table(
        "code_failures",
        sa.Column("customer", sa.String(length=64), nullable=False),
        sa.Column("wrong", sa.Integer(), nullable=False),
        sa.Column("since", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("customer", name=op.f("pk_code_failures")),
    )


def _crls() -> None:
    op.create_table(
        "crls",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revocations", sa.Integer(), nullable=False),
        sa.Column("next_update", _MOMENT, nullable=False),
        sa.Column("der", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_crls")),
    )


def _customers() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.String(length=35), nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
    )


def _register() -> None:
    op.create_table(
        "register",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("crl_number", sa.Integer(), nullable=False),
        sa.Column("revocations", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_register")),
    )


def _certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("request_key", sa.String(length=105), nullable=False),
        sa.Column("spki_sha256", sa.String(length=64), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("customer", sa.String(length=35), nullable=False),
        sa.Column("profile", sa.String(length=16), nullable=False),
        sa.Column("confirmation", sa.String(length=8), nullable=False),
        sa.Column("display", sa.Boolean(), nullable=False),
        sa.Column("token_serial", sa.String(length=64)),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("not_before", _MOMENT, nullable=False),
        sa.Column("not_after", _MOMENT, nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("activated", _MOMENT),
        sa.Column("superseded", _MOMENT),
        sa.Column("revoked", _MOMENT),
        sa.Column("reason", sa.String(length=24)),
        sa.Column("replaces", sa.String(length=40)),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("der", sa.LargeBinary()),
        sa.Column("sha256", sa.String(length=64)),
        sa.CheckConstraint(
            "state IN ('reserved', 'issued', 'active', 'superseded', 'revoked')", name=op.f("ck_certificates_state")
        ),
        sa.CheckConstraint("(der IS NULL) = (sha256 IS NULL)", name=op.f("ck_certificates_der")),
        sa.ForeignKeyConstraint(["customer"], ["customers.id"], name=op.f("fk_certificates_customer")),
        sa.ForeignKeyConstraint(["replaces"], ["certificates.serial"], name=op.f("fk_certificates_replaces")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
        sa.UniqueConstraint("request_key", name=op.f("uq_certificates_request_key")),
        sa.UniqueConstraint("sha256", name=op.f("uq_certificates_sha256")),
    )
    op.create_index(op.f("ix_certificates_customer"), "certificates", ["customer"], unique=False)
    op.create_index(op.f("ix_certificates_replaces"), "certificates", ["replaces"], unique=False)
    op.create_index(op.f("ix_certificates_spki_sha256"), "certificates", ["spki_sha256"], unique=False)
    op.create_index("ix_certificates_state_not_after", "certificates", ["state", "not_after"], unique=False)


def _enrolment_codes() -> None:
    op.create_table(
        "enrolment_codes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("customer", sa.String(length=35), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("profile", sa.String(length=16), nullable=False),
        sa.Column("confirmation", sa.String(length=8), nullable=False),
        sa.Column("display", sa.Boolean(), nullable=False),
        sa.Column("token_serial", sa.String(length=64)),
        sa.Column("certificate_days", sa.Integer()),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.Column("used", _MOMENT),
        sa.Column("serial", sa.String(length=40)),
        sa.ForeignKeyConstraint(["customer"], ["customers.id"], name=op.f("fk_enrolment_codes_customer")),
        sa.ForeignKeyConstraint(["serial"], ["certificates.serial"], name=op.f("fk_enrolment_codes_serial")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_enrolment_codes")),
        sa.UniqueConstraint("serial", name=op.f("uq_enrolment_codes_serial")),
    )


def _renewal_documents() -> None:
    op.create_table(
        "renewal_documents",
        sa.Column("tx_id", sa.String(length=36), nullable=False),
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("canonical", sa.LargeBinary(), nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.Column("signed", sa.LargeBinary()),
        sa.ForeignKeyConstraint(["serial"], ["certificates.serial"], name=op.f("fk_renewal_documents_serial")),
        sa.PrimaryKeyConstraint("tx_id", name=op.f("pk_renewal_documents")),
    )
    op.create_index(op.f("ix_renewal_documents_serial"), "renewal_documents", ["serial"], unique=False)
