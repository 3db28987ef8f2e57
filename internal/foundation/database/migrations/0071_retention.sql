-- SPDX-License-Identifier: Apache-2.0
-- Owned by retention: the rooms whose old messages are removed, and when each is looked at next (ms since the epoch).
CREATE TABLE room_retention (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    due BIGINT NOT NULL,
    PRIMARY KEY (tenant, room)
);
CREATE INDEX room_retention_due ON room_retention (due);
