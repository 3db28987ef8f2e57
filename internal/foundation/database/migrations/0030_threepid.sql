-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: e-mail addresses that belong to accounts. address is case-folded; times are ms since the epoch.
CREATE TABLE threepid (
    tenant BIGINT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_id TEXT NOT NULL,
    validated BIGINT NOT NULL,
    added BIGINT NOT NULL,
    PRIMARY KEY (tenant, medium, address)
);
CREATE INDEX threepid_user ON threepid (tenant, user_id);
-- Addresses being validated: purpose is what the proof will be good for, token the hash of what the mail holds, validated 0 until the link in it was
-- followed.
CREATE TABLE threepid_session (
    tenant BIGINT NOT NULL,
    sid TEXT NOT NULL,
    client_secret TEXT NOT NULL,
    purpose TEXT NOT NULL,
    address TEXT NOT NULL,
    token BYTEA NOT NULL,
    attempt BIGINT NOT NULL,
    next_link TEXT NOT NULL,
    validated BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, sid)
);
CREATE UNIQUE INDEX threepid_session_client ON threepid_session (tenant, client_secret, purpose, address);
CREATE INDEX threepid_session_created ON threepid_session (tenant, created);
