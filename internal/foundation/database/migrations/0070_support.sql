-- SPDX-License-Identifier: Apache-2.0
-- Owned by account: whom people of other servers turn to, as the organisation's administrators say it: the document of /.well-known/matrix/support.
CREATE TABLE support (
    tenant BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant)
);
