-- SPDX-License-Identifier: Apache-2.0
-- Owned by delayed (MSC4140): events to be sent later. delay is ms, send_at and running_since ms since the epoch; state is whether state_key means
-- anything. claimed_until (ms) is the end of a node's claim while it sends one.
CREATE TABLE delayed_event (
    tenant BIGINT NOT NULL,
    delay_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    scope TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state BOOLEAN NOT NULL,
    state_key TEXT NOT NULL,
    redacts TEXT NOT NULL,
    content TEXT NOT NULL,
    origin_ts BIGINT NOT NULL,
    delay BIGINT NOT NULL,
    running_since BIGINT NOT NULL,
    send_at BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL,
    PRIMARY KEY (tenant, delay_id)
);
CREATE INDEX delayed_event_due ON delayed_event (send_at);
CREATE INDEX delayed_event_user ON delayed_event (tenant, user_id);
CREATE INDEX delayed_event_room ON delayed_event (tenant, room, type, state_key);
CREATE UNIQUE INDEX delayed_event_txn ON delayed_event (tenant, user_id, device, scope, txn_id) WHERE txn_id <> '';
-- Owned by encryption (MSC3814): the device that collects a user's to-device messages while no other is there. data is the client's.
CREATE TABLE dehydrated_device (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
