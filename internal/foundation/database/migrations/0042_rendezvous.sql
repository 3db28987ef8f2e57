-- SPDX-License-Identifier: Apache-2.0
-- Owned by oauth: the mailboxes of sign-in by QR code (MSC4108), which live for a minute. Tenant 0 is the cell: opened at a client host of all tenants.
CREATE TABLE rendezvous (
    tenant BIGINT NOT NULL,
    name TEXT NOT NULL,
    payload BYTEA NOT NULL,
    etag TEXT NOT NULL,
    changed BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE INDEX rendezvous_expires ON rendezvous (tenant, expires);
