-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/contact. Whom users of older clients allow to invite them, from when until when (s since the epoch; ends 0: open).
CREATE TABLE contact (
    tenant BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    mxid TEXT NOT NULL,
    name TEXT NOT NULL,
    starts BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id, mxid)
);
