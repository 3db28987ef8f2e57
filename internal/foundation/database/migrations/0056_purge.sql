-- SPDX-License-Identifier: Apache-2.0
-- Owned by homeserver/room: rooms whose rows are being removed. Nobody enters one until that has ended.
CREATE TABLE room_purge (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (tenant, room)
);
CREATE INDEX search_word_room ON search_word (tenant, room, event);
