-- SPDX-License-Identifier: Apache-2.0
-- Owned by encryption. Rows of users of other servers are the tenant's own copy of their public keys, kept while a room is shared.
CREATE TABLE device_key (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    keys TEXT NOT NULL,
    display_name TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, device)
);
-- usage is master, self_signing or user_signing; public is the unpadded base64 of the key.
CREATE TABLE cross_signing_key (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    usage TEXT NOT NULL,
    public TEXT NOT NULL,
    keys TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, usage)
);
-- Signatures uploaded apart from the key that they sign; target is a device id or a master key's public part. position is when the signer put
-- one on somebody else's key, which nobody but the signer sees.
CREATE TABLE key_signature (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    target TEXT NOT NULL,
    signer TEXT NOT NULL,
    signer_key TEXT NOT NULL,
    signature TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, target, signer, signer_key)
);
CREATE INDEX key_signature_signer ON key_signature (tenant, signer, position);
-- Insert-only, claimed by deletion in the order of serial (engine rule 26).
CREATE TABLE one_time_key (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    serial BIGINT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, device, algorithm, key_id)
);
CREATE INDEX one_time_key_serial ON one_time_key (tenant, user_id, device, algorithm, serial);
CREATE TABLE fallback_key (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key TEXT NOT NULL,
    used BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, user_id, device, algorithm)
);
-- One row per user whose devices this tenant publishes (its own) or tracks (others'). stream_id is the user's own counter (engine rule 27),
-- position the last change that clients were told of. A copy is answered from only while stale is false; dirty counts the reasons to fetch it
-- anew, so that a fetch begun before the last of them does not count.
CREATE TABLE device_list (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    stale BOOLEAN NOT NULL,
    dirty BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
CREATE INDEX device_list_position ON device_list (tenant, position);
-- The last change of each device of the tenant's own users, for federation; device is empty for the cross-signing keys.
CREATE TABLE device_list_change (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    deleted BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, user_id, device)
);
CREATE INDEX device_list_change_position ON device_list_change (tenant, position);
-- Waiting for the device, deleted when it has shown to have received them (engine rule 28).
CREATE TABLE to_device (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    position BIGINT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, device, position)
);
-- Waiting for another server: the content of one m.direct_to_device EDU each.
CREATE TABLE to_device_outgoing (
    tenant BIGINT NOT NULL,
    destination TEXT NOT NULL,
    position BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (tenant, destination, position)
);
-- Message ids received from other servers, so that a repeated EDU is delivered once.
CREATE TABLE to_device_seen (
    tenant BIGINT NOT NULL,
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (tenant, origin, message_id)
);
CREATE INDEX to_device_seen_received ON to_device_seen (tenant, origin, received);
-- Transaction ids of /sendToDevice (engine rule 5).
CREATE TABLE to_device_txn (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    device TEXT NOT NULL,
    type TEXT NOT NULL,
    txn TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, device, type, txn)
);
-- Key backup. A deleted version stays as a mark, so that its number is never given again.
CREATE TABLE key_backup (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,
    etag BIGINT NOT NULL,
    deleted BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, user_id, version)
);
CREATE TABLE key_backup_session (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    room TEXT NOT NULL,
    session TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified BOOLEAN NOT NULL,
    session_data TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id, version, room, session)
);
