-- SPDX-License-Identifier: Apache-2.0
-- Owned by homeserver/room: rooms that nobody of the tenant may join, by the administrator who decided it.
CREATE TABLE blocked_room (
    tenant BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (tenant, room_id)
);
-- Owned by admin: rooms that an administrator shuts down. status is active, complete or failed; result is the JSON that the tools show.
CREATE TABLE room_shutdown (
    tenant BIGINT NOT NULL,
    delete_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    status TEXT NOT NULL,
    result TEXT NOT NULL,
    started BIGINT NOT NULL,
    PRIMARY KEY (tenant, delete_id)
);
CREATE INDEX room_shutdown_room ON room_shutdown (tenant, room_id, started);
