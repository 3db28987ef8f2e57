-- Joins of rooms on other servers that have been sent and not yet entered: what a crash leaves here is finished after the next start. node is the
-- process that is at it.
CREATE TABLE federation_joining (
    tenant BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    server TEXT NOT NULL,
    node BIGINT NOT NULL,
    PRIMARY KEY (tenant, room_id, user_id)
);
