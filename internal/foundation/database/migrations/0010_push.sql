-- SPDX-License-Identifier: Apache-2.0
-- Owned by push: events that highlight (engine rule 31): one row per user mentioned, one with an empty user_id for what highlights for the whole
-- room. extra says that the event notifies nobody else, so that it is not among those counted by its class.
CREATE TABLE highlight (
    tenant BIGINT NOT NULL,
    room BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    thread TEXT NOT NULL,
    extra BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, room, user_id, position)
);
-- Where a user's notifications are sent. data is the client's JSON object.
CREATE TABLE pusher (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    app_display_name TEXT NOT NULL,
    device_display_name TEXT NOT NULL,
    profile_tag TEXT NOT NULL,
    lang TEXT NOT NULL,
    data TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, app_id, pushkey)
);
CREATE INDEX pusher_key ON pusher (tenant, app_id, pushkey);
