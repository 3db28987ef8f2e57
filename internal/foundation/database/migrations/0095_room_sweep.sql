-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/sweep: rooms that may have to go, and when each is looked at (ms since the epoch).
CREATE TABLE room_sweep (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    due BIGINT NOT NULL,
    PRIMARY KEY (tenant, room)
);
CREATE INDEX room_sweep_due ON room_sweep (due);
