-- SPDX-License-Identifier: Apache-2.0
-- Owned by timeline: what users have reported to the administrators of their server. kind is event, room or user; what does not apply is empty.
CREATE TABLE report (
    tenant BIGINT NOT NULL,
    report BIGINT NOT NULL,
    kind TEXT NOT NULL,
    reporter TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    score BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, report)
);
CREATE INDEX report_created ON report (tenant, created, report);
