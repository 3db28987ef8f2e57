-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/fedlist: the publisher's domains (central services), and the list that a provider's cell last verified.
CREATE TABLE federation_domain (
    domain TEXT NOT NULL PRIMARY KEY,
    telematik_id TEXT NOT NULL,
    insurance BOOLEAN NOT NULL,
    ik TEXT NOT NULL,
    provider TEXT NOT NULL
);
CREATE TABLE federation_version (
    list BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);
CREATE TABLE federation_list (
    source TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    fetched BIGINT NOT NULL,
    token TEXT NOT NULL
);
