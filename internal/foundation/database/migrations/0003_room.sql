-- SPDX-License-Identifier: Apache-2.0
-- Owned by homeserver/room: each tenant's own copy of its rooms (design rule 1).
CREATE TABLE room (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    version TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, room)
);
CREATE UNIQUE INDEX room_by_id ON room (tenant, room_id);
-- The head of a room: version is a random number that names the head a plan was built on (engine rule 4); extremities is a JSON list of event ids;
-- snapshot is the current state.
CREATE TABLE room_head (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    version BIGINT NOT NULL,
    extremities TEXT NOT NULL,
    snapshot BIGINT NOT NULL,
    topological BIGINT NOT NULL,
    PRIMARY KEY (tenant, room)
);
-- Events. position 0 means: in no timeline (outlier, backfilled, rejected, soft-failed). snapshot is the state before, snapshot_after the state
-- after the event (the same number for messages); 0 for outliers. json is the PDU as federated, redacted once a redaction applied.
CREATE TABLE event (
    tenant BIGINT NOT NULL,
    event BIGINT NOT NULL,
    room BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    topological BIGINT NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    origin_ts BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    snapshot_after BIGINT NOT NULL,
    rejected BOOLEAN NOT NULL,
    soft_failed BOOLEAN NOT NULL,
    outlier BOOLEAN NOT NULL,
    reason TEXT NOT NULL,
    rule_class BIGINT NOT NULL,
    thread TEXT NOT NULL,
    redacted_by TEXT NOT NULL,
    txn_device TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    json BYTEA NOT NULL,
    PRIMARY KEY (tenant, event)
);
CREATE INDEX event_timeline ON event (tenant, room, position) WHERE position > 0;
CREATE INDEX event_order ON event (tenant, room, topological, event);
CREATE INDEX event_position ON event (tenant, position) WHERE position > 0;
-- Event ids are unique in a tenant (engine rule 16).
CREATE TABLE event_id (
    tenant BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (tenant, event_id)
);
-- Events that an event cites as prev events and that we do not have: where history has a gap.
CREATE TABLE event_gap (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    missing_id TEXT NOT NULL,
    event BIGINT NOT NULL,
    topological BIGINT NOT NULL,
    PRIMARY KEY (tenant, room, missing_id, event)
);
CREATE INDEX event_gap_event ON event_gap (tenant, event);
-- Relations between events (m.relates_to), for relations, threads and aggregation.
CREATE TABLE event_relation (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    target_id TEXT NOT NULL,
    event BIGINT NOT NULL,
    rel_type TEXT NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    PRIMARY KEY (tenant, target_id, event)
);
CREATE INDEX event_relation_room ON event_relation (tenant, room, rel_type, event);
-- Redactions by the event they name, which may arrive later than they do.
CREATE TABLE redaction (
    tenant BIGINT NOT NULL,
    redacts TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (tenant, redacts, event_id)
);
-- Snapshots of state: a chain of at most 32 deltas on a full one (engine rule 13). parent 0 is full; an entry with an empty event id removes the key.
CREATE TABLE snapshot (
    tenant BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    room BIGINT NOT NULL,
    parent BIGINT NOT NULL,
    length BIGINT NOT NULL,
    PRIMARY KEY (tenant, snapshot)
);
CREATE INDEX snapshot_room ON snapshot (tenant, room);
CREATE TABLE snapshot_entry (
    tenant BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (tenant, snapshot, type, state_key)
);
-- Changes of the current state by position (engine rule 6); empty ids stand for absence.
CREATE TABLE state_delta (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    position BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    old_id TEXT NOT NULL,
    new_id TEXT NOT NULL,
    PRIMARY KEY (tenant, room, position, type, state_key)
);
CREATE INDEX state_delta_key ON state_delta (tenant, type, state_key, position);
-- Who is what in a room now: members of the current state, and local users invited to or knocking at rooms that the server is not in.
-- stripped is the JSON list of stripped state stored when an invite arrived (engine rule 22).
CREATE TABLE membership (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    membership TEXT NOT NULL,
    event_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    forgotten BOOLEAN NOT NULL,
    stripped BYTEA NOT NULL,
    PRIMARY KEY (tenant, user_id, room)
);
CREATE INDEX membership_room ON membership (tenant, room, membership);
-- Client transaction ids, kept 24 h (engine rule 5). scope is endpoint, room and type.
CREATE TABLE txn (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    scope TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, device, scope, txn_id)
);
CREATE INDEX txn_created ON txn (tenant, created);
-- Incoming PDUs that are durable but not yet part of their room (engine rule 12).
CREATE TABLE staging (
    tenant BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    origin TEXT NOT NULL,
    arrival BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    json BYTEA NOT NULL,
    PRIMARY KEY (tenant, room_id, event_id)
);
CREATE TABLE room_alias (
    tenant BIGINT NOT NULL,
    alias TEXT NOT NULL,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, alias)
);
CREATE INDEX room_alias_room ON room_alias (tenant, room_id);
CREATE TABLE public_room (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (tenant, room)
);
