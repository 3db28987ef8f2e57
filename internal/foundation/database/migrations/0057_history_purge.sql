-- SPDX-License-Identifier: Apache-2.0
-- Owned by admin: purges of a room's past that an administrator asked for. status is active, complete or failed.
CREATE TABLE history_purge (
    tenant BIGINT NOT NULL,
    purge_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    status TEXT NOT NULL,
    started BIGINT NOT NULL,
    PRIMARY KEY (tenant, purge_id)
);
