-- SPDX-License-Identifier: Apache-2.0
-- Owned by ephemeral: the newest receipt of each user, kind and thread in a room. thread is empty for receipts of the whole room, "main" or a
-- thread's root otherwise. event_position, topological and arrival are those of the event, 0 when it was not known here; ts is in ms.
CREATE TABLE receipt (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_position BIGINT NOT NULL,
    topological BIGINT NOT NULL,
    arrival BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, room, user_id, kind, thread)
);
CREATE INDEX receipt_position ON receipt (tenant, room, position);
CREATE INDEX receipt_user ON receipt (tenant, user_id, position);
