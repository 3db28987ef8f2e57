-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: the people, bots and bridges of a tenant. login_name is what a person types at login; it differs from the localpart where
-- localparts are random (A_22719). password is a self-describing hash, empty where none may sign in by password.
CREATE TABLE account (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    login_name TEXT NOT NULL,
    password TEXT NOT NULL,
    admin BOOLEAN NOT NULL,
    guest BOOLEAN NOT NULL,
    deactivated BOOLEAN NOT NULL,
    locked BOOLEAN NOT NULL,
    suspended BOOLEAN NOT NULL,
    appservice TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
CREATE UNIQUE INDEX account_login_name ON account (tenant, login_name);
CREATE TABLE device (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    display_name TEXT NOT NULL,
    last_seen BIGINT NOT NULL,
    last_seen_ip TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, device)
);
-- Tokens are stored as SHA-256 hashes. parent is the refresh token that made this one; it is revoked at the first use of the child.
CREATE TABLE access_token (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    token_id BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    parent BYTEA NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX access_token_device ON access_token (tenant, user_id, device);
CREATE TABLE refresh_token (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    parent BYTEA NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX refresh_token_device ON refresh_token (tenant, user_id, device);
-- One-time secrets of one kind (openid, login, nonce) with the user they stand for.
CREATE TABLE short_token (
    tenant BIGINT NOT NULL,
    kind TEXT NOT NULL,
    hash BYTEA NOT NULL,
    user_id TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, kind, hash)
);
CREATE INDEX short_token_expires ON short_token (tenant, kind, expires);
-- Sessions of user-interactive authentication: purpose binds one to its endpoint and user, request keeps the parameters first sent.
CREATE TABLE uia_session (
    tenant BIGINT NOT NULL,
    session TEXT NOT NULL,
    purpose TEXT NOT NULL,
    completed TEXT NOT NULL,
    request TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, session)
);
CREATE INDEX uia_session_created ON uia_session (tenant, created);
-- One row per field, value is JSON; folded is the display name in lower case for the user directory.
CREATE TABLE profile (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    folded TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, field)
);
-- room is empty for global account data; tags are the room's m.tag.
CREATE TABLE account_data (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    room TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, room, type)
);
CREATE INDEX account_data_position ON account_data (tenant, user_id, position);
-- The id is derived from the content, so that a client storing the same filter at each start makes one row.
CREATE TABLE filter (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    filter_id TEXT NOT NULL,
    definition TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, filter_id)
);
