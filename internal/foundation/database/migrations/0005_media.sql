-- SPDX-License-Identifier: Apache-2.0
-- Owned by media. origin is empty for the tenant's own media, else the server that a cached copy came from. hash names the blob within the
-- tenant and is empty while an announced upload has not come; expires ends that waiting. legacy says that the unauthenticated endpoints may
-- serve it.
CREATE TABLE media (
    tenant BIGINT NOT NULL,
    origin TEXT NOT NULL,
    media_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    size BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    file_name TEXT NOT NULL,
    legacy BOOLEAN NOT NULL,
    created BIGINT NOT NULL,
    accessed BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, origin, media_id)
);
CREATE INDEX media_user ON media (tenant, user_id, created);
CREATE INDEX media_hash ON media (tenant, hash);
-- What a tenant uses, by own and remote.
CREATE INDEX media_size ON media (tenant, origin, size);
CREATE TABLE media_thumbnail (
    tenant BIGINT NOT NULL,
    origin TEXT NOT NULL,
    media_id TEXT NOT NULL,
    width BIGINT NOT NULL,
    height BIGINT NOT NULL,
    method TEXT NOT NULL,
    hash TEXT NOT NULL,
    size BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    PRIMARY KEY (tenant, origin, media_id, width, height, method)
);
CREATE INDEX media_thumbnail_hash ON media_thumbnail (tenant, hash);
