-- SPDX-License-Identifier: Apache-2.0
-- Owned by clientsync: what each connection of simplified sliding sync has been sent (engine rule 30). generation names the newest content, which
-- follows on previous; used is ms since the epoch.
CREATE TABLE sliding_connection (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    content BYTEA NOT NULL,
    previous BIGINT NOT NULL,
    previous_content BYTEA NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, device, conn_id)
);
CREATE INDEX sliding_connection_used ON sliding_connection (tenant, used);
