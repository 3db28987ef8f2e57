-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: what people prove themselves with beside their password (TOTP: secret is sealed, step the last time step that counted), and what
-- bots sign in with, which administrators give out. hash is of the secret; revoked is 0 while it counts.
CREATE TABLE second_factor (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    secret BYTEA NOT NULL,
    step BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
CREATE TABLE bot_credential (
    tenant BIGINT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    issuer TEXT NOT NULL,
    created BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX bot_credential_hash ON bot_credential (tenant, hash);
CREATE INDEX bot_credential_user ON bot_credential (tenant, user_id);
-- Owned by oauth: browsers in which a password was right and a second proof is awaited. secret, sealed, is offered for enrolment; empty where the person
-- has one already.
CREATE TABLE sign_in_step (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    user_id TEXT NOT NULL,
    secret TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX sign_in_step_expires ON sign_in_step (tenant, expires);
