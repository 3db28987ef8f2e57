-- SPDX-License-Identifier: Apache-2.0
-- Owned by federation. Shared, public facts: signing keys of other servers. valid_until is the end of a current key's validity (at most seven
-- days after it was fetched), expired the end of an old key's use, 0 for a current one; both in ms.
CREATE TABLE server_key (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public BYTEA NOT NULL,
    valid_until BIGINT NOT NULL,
    expired BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);
-- Shared, public facts: the last answer of a server's key endpoint as it was signed, for the notary.
CREATE TABLE server_key_answer (
    server TEXT NOT NULL PRIMARY KEY,
    answer TEXT NOT NULL,
    valid_until BIGINT NOT NULL,
    fetched BIGINT NOT NULL
);
-- Shared, the cell's own bookkeeping: hosts that could not be reached (engine rule 21). A reachable host has no row.
CREATE TABLE server_reach (
    server TEXT NOT NULL PRIMARY KEY,
    failures BIGINT NOT NULL,
    retry_at BIGINT NOT NULL
);
-- Destinations that refuse a tenant (engine rule 21).
CREATE TABLE federation_refusal (
    tenant BIGINT NOT NULL,
    destination TEXT NOT NULL,
    failures BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, destination)
);
-- The transaction under way to a destination, with the content that its id stands for; up_to is the last position that it covers. The row is
-- also the sender's claim: sender is a node's sender, claimed_until (ms) the end of its lease.
CREATE TABLE federation_outgoing (
    tenant BIGINT NOT NULL,
    destination TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    up_to BIGINT NOT NULL,
    body TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    sender BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL,
    PRIMARY KEY (tenant, destination)
);
-- Results of received transactions, kept 24 h (engine rule 12).
CREATE TABLE federation_incoming (
    tenant BIGINT NOT NULL,
    origin TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    result TEXT NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (tenant, origin, txn_id)
);
CREATE INDEX federation_incoming_received ON federation_incoming (tenant, origin, received);
-- Positions of others' events that the tenant accepted as resident server and passes on (engine rule 20); emptied with the outbox.
CREATE TABLE federation_relay (
    tenant BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, position)
);
