-- SPDX-License-Identifier: Apache-2.0
-- Owned by media: what an administrator (user_id) has taken out of sight. It stays so when a copy is dropped and would be fetched again.
CREATE TABLE media_quarantine (
    tenant BIGINT NOT NULL,
    origin TEXT NOT NULL,
    media_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (tenant, origin, media_id)
);
