-- SPDX-License-Identifier: Apache-2.0
-- Owned by push. position is the last position that a pusher has been told of, badge the unread count that its gateway last got (-1: none yet).
-- attempts counts the failures in a row since failing (ms); retry_at (ms) is when the gateway is tried again. All three are 0 for one that works.
ALTER TABLE pusher ADD COLUMN position BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pusher ADD COLUMN badge BIGINT NOT NULL DEFAULT -1;
ALTER TABLE pusher ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pusher ADD COLUMN failing BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pusher ADD COLUMN retry_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX pusher_failing ON pusher (tenant, user_id) WHERE failing > 0;
CREATE INDEX pusher_device ON pusher (tenant, user_id, device);
-- How far a tenant's stream has been looked through for what notifies somebody. Tenants without pushers have no row.
CREATE TABLE push_stream (
    tenant BIGINT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);
