-- SPDX-License-Identifier: Apache-2.0
-- Owned by appservice: how far an application service has been told of the tenant's stream, and the transaction under way with the content that
-- its id stands for (empty: none); up_to is the last position that it covers, taken the to-device messages in it as JSON. sender is the node
-- that sends to it, claimed_until (ms) the end of its lease.
CREATE TABLE appservice_stream (
    tenant BIGINT NOT NULL,
    service TEXT NOT NULL,
    position BIGINT NOT NULL,
    txn_id TEXT NOT NULL,
    up_to BIGINT NOT NULL,
    body TEXT NOT NULL,
    taken TEXT NOT NULL,
    sender BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL,
    PRIMARY KEY (tenant, service)
);
-- Rooms that an application service lists in the directory of one of its networks.
CREATE TABLE appservice_room (
    tenant BIGINT NOT NULL,
    service TEXT NOT NULL,
    network TEXT NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (tenant, service, network, room)
);
-- Invitations to rooms that the server is not in, which stand in no timeline, by their position.
CREATE INDEX membership_position ON membership (tenant, position);
