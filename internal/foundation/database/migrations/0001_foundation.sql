-- SPDX-License-Identifier: Apache-2.0
-- Owned by tenant: a tenant is a server. position and epoch are written by package stream alone (engine rule 1).
CREATE TABLE tenant (
    tenant BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch BIGINT NOT NULL,
    position BIGINT NOT NULL,
    state TEXT NOT NULL,
    insurance BOOLEAN NOT NULL,
    display_name TEXT NOT NULL,
    telematik_id TEXT NOT NULL,
    created BIGINT NOT NULL
);
-- Host names of tenants (engine rule 19); kind is server, client or federation.
CREATE TABLE host (
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    tenant BIGINT NOT NULL,
    PRIMARY KEY (host, kind)
);
CREATE INDEX host_tenant ON host (tenant);
-- Owned by keyring: signing keys, private parts sealed. expired = 0 is the current key.
CREATE TABLE signing_key (
    tenant BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    public BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    created BIGINT NOT NULL,
    expired BIGINT NOT NULL,
    PRIMARY KEY (tenant, key_id)
);
-- Owned by stream: the last batch of each committer, which tells after a connection lost during COMMIT whether it went through.
CREATE TABLE commit_batch (
    committer BIGINT NOT NULL PRIMARY KEY,
    batch BIGINT NOT NULL
);
-- Owned by stream (insert) and federation (delete): destinations with something to send (engine rule 20).
CREATE TABLE outbox (
    tenant BIGINT NOT NULL,
    destination TEXT NOT NULL,
    pending_from BIGINT NOT NULL,
    PRIMARY KEY (tenant, destination)
);
