-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: devices that an OAuth 2.0 client signed in. The row goes when the device signs in otherwise or ends. family is the hash of the
-- part that all refresh tokens of the session share: who shows that part with a token that is not the current one shows a spent token.
CREATE TABLE oauth_session (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    family BYTEA NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, device)
);
CREATE UNIQUE INDEX oauth_session_family ON oauth_session (tenant, family);
CREATE INDEX oauth_session_client ON oauth_session (tenant, client_id);
-- Owned by oauth: registered clients. Tenant 0 is the cell itself: clients registered at a client host of all tenants, which nobody of a tenant has
-- used yet. client_id is derived from the metadata, so that equal registrations are one row. used is the last registration or sign-in.
CREATE TABLE oauth_client (
    tenant BIGINT NOT NULL,
    client_id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (tenant, client_id)
);
CREATE INDEX oauth_client_used ON oauth_client (tenant, used);
