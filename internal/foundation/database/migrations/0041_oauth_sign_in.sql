-- SPDX-License-Identifier: Apache-2.0
-- Owned by oauth. Authorisation codes, kept for a while after their use so that a second use is noticed; session is when the session that it gave
-- was made, by which that very session can be ended.
CREATE TABLE oauth_code (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    client_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    scope TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    challenge TEXT NOT NULL,
    expires BIGINT NOT NULL,
    used BIGINT NOT NULL,
    session BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX oauth_code_expires ON oauth_code (tenant, expires);
-- Requests of the device grant. Tenant 0 is the cell: asked for at a client host of all tenants. state is pending, approved or denied; user_id is who
-- approved; polled is when the client last asked, pause how many seconds it has to wait between two questions.
CREATE TABLE oauth_device_code (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    user_code TEXT NOT NULL,
    client_id TEXT NOT NULL,
    device TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    user_id TEXT NOT NULL,
    polled BIGINT NOT NULL,
    pause BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE UNIQUE INDEX oauth_device_code_user_code ON oauth_device_code (tenant, user_code);
CREATE INDEX oauth_device_code_expires ON oauth_device_code (tenant, expires);
-- Browsers that are signed in on the server's pages. proven is when the person last proved who they are.
CREATE TABLE browser_session (
    tenant BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    user_id TEXT NOT NULL,
    proven BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX browser_session_user ON browser_session (tenant, user_id);
CREATE INDEX browser_session_expires ON browser_session (tenant, expires);
