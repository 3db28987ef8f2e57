-- SPDX-License-Identifier: Apache-2.0
-- Owned by homeserver/room: the index of the auth graph (docs/decisions/0055-auth-chain-index.md). Every state event has a place in a chain: whatever
-- stands lower in its chain is in its auth chain. A link says what else an event's auth events are.
CREATE TABLE auth_chain (
    tenant BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    chain BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (tenant, event_id)
);
CREATE UNIQUE INDEX auth_chain_place ON auth_chain (tenant, chain, seq);
CREATE INDEX auth_chain_room ON auth_chain (tenant, room);
CREATE TABLE auth_link (
    tenant BIGINT NOT NULL,
    chain BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    to_chain BIGINT NOT NULL,
    to_seq BIGINT NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (tenant, chain, seq, to_chain, to_seq)
);
CREATE INDEX auth_link_to ON auth_link (tenant, to_chain, to_seq);
CREATE INDEX auth_link_room ON auth_link (tenant, room);
-- State events that have no place yet.
CREATE TABLE auth_pending (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (tenant, room, event_id)
);
INSERT INTO auth_pending (tenant, room, event_id) SELECT tenant, room, event_id FROM event
    WHERE type NOT IN ('m.room.message', 'm.room.encrypted', 'm.reaction', 'm.room.redaction');
