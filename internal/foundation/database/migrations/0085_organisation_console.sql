-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/registration. Names below the provider's domain by what they look like, so that no two look alike.
CREATE TABLE registration_name (
    skeleton TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL
);
CREATE INDEX registration_name_domain ON registration_name (domain);
-- Domains of organisations' own: the token that they show there, and when it was seen (ms since the epoch, 0 for not yet).
CREATE TABLE registration_domain (
    telematik_id TEXT NOT NULL,
    domain TEXT NOT NULL,
    token TEXT NOT NULL,
    proved BIGINT NOT NULL,
    PRIMARY KEY (telematik_id, domain)
);
-- Single-use links that were sent by KIM, by the hash of their secret.
CREATE TABLE registration_link (
    hash BYTEA NOT NULL PRIMARY KEY,
    telematik_id TEXT NOT NULL,
    profession TEXT NOT NULL,
    name TEXT NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX registration_link_expires ON registration_link (expires);
-- Messengers whose organisation has left the directory: since when, and whether they were taken off the federation list for it (0 or when).
CREATE TABLE registration_inactive (
    tenant BIGINT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    removed BIGINT NOT NULL
);
-- Owned by admin/console. Browsers in which an organisation registers, before there is a tenant. state, nonce and verifier belong to the visit at the
-- identity provider; the organisation is empty until it is proved; password and secret (of the second factor) are sealed.
CREATE TABLE console_visit (
    hash BYTEA NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    telematik_id TEXT NOT NULL,
    profession TEXT NOT NULL,
    name TEXT NOT NULL,
    proved BIGINT NOT NULL,
    terms BIGINT NOT NULL,
    login TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    confirmed BIGINT NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX console_visit_expires ON console_visit (expires);
-- Browsers in which administrators are signed in, or (second = 0) in which a password was right and the second factor is awaited; secret, sealed, is
-- offered for enrolment then.
CREATE TABLE console_session (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    user_id TEXT NOT NULL,
    second BIGINT NOT NULL,
    secret BYTEA NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX console_session_user ON console_session (tenant, user_id);
-- What administrators did, in the order in which they did it.
CREATE TABLE console_audit (
    tenant BIGINT NOT NULL,
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX console_audit_at ON console_audit (tenant, at);
-- An organisation's settings by their names: invites is "allow all" or "block all", for people without a setting of their own.
CREATE TABLE organisation_setting (
    tenant BIGINT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
);
-- What an organisation's own user administration proves itself with (SCIM), by the hash of the secret; revoked is 0 while it counts.
CREATE TABLE scim_credential (
    tenant BIGINT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    issuer TEXT NOT NULL,
    created BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX scim_credential_hash ON scim_credential (tenant, hash);
