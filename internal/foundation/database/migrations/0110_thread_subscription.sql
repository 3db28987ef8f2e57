-- SPDX-License-Identifier: Apache-2.0
-- Owned by push: the threads that users are told of (MSC4306). root is the id of the thread's first event. A subscription that has ended keeps its
-- row: position says where it ended, and what happened in the thread up to there does not begin it again.
CREATE TABLE thread_subscription (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    root TEXT NOT NULL,
    subscribed BOOLEAN NOT NULL,
    automatic BOOLEAN NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, room, root)
);
CREATE INDEX thread_subscription_position ON thread_subscription (tenant, user_id, position);
-- A purge asks by room.
CREATE INDEX thread_subscription_room ON thread_subscription (tenant, room);
