-- SPDX-License-Identifier: Apache-2.0
-- Owned by keyring. The key with which a tenant signs as policy server. Rooms name its public half in their state, so it is never changed.
CREATE TABLE policy_key (
    tenant BIGINT NOT NULL PRIMARY KEY,
    sealed BYTEA NOT NULL,
    created BIGINT NOT NULL
);
