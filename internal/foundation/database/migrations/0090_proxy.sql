-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/proxy. Copies of the permission configurations of people whose homeserver stands behind the proxy, as their account data have them.
CREATE TABLE proxy_permission (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
