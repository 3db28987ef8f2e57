-- SPDX-License-Identifier: Apache-2.0
-- Owned by room: deactivated users who asked to be erased; who was not there sees what they sent without its content.
CREATE TABLE erased_user (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
-- Owned by account: tokens by which people may register, as administrators make them. uses_allowed is negative without a bound, expiry (ms) 0 without an
-- end.
CREATE TABLE registration_token (
    tenant BIGINT NOT NULL,
    token TEXT NOT NULL,
    uses_allowed BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    expiry BIGINT NOT NULL,
    PRIMARY KEY (tenant, token)
);
-- Owned by admin: the room in which each user gets the notices of the server's administrators.
CREATE TABLE server_notice_room (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
